#!/usr/bin/env bash
# Kills the daemon, and cuts the power of the host file system, at random moments; crash.sh --help tells more.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib.sh"

"$here/install.sh" mount
exec "$here/isolated" python3 "$here/crash.py" "$@"
