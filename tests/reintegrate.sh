#!/usr/bin/env bash
# Kills what takes in another replica's records, and cuts its power; reintegrate.sh --help tells more.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib.sh"

"$here/install.sh" mount strace
exec "$here/isolated" python3 "$here/reintegrate.py" "$@"
