#!/usr/bin/env bash
# Test suites that nobody here wrote, on a mount and on the plain file system below it; foreign.sh --help tells more.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib.sh"

"$here/install.sh" mount suites
exec "$here/isolated" python3 "$here/foreign.py" "$@"
