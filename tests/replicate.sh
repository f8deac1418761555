#!/usr/bin/env bash
# Cuts the link between a server and its clients, and kills any of them; replicate.sh --help tells more.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib.sh"

"$here/install.sh" mount network
exec "$here/isolated" python3 "$here/replicate.py" "$@"
