#!/usr/bin/env bash
# Records every block write below a fileset, and looks at what any loss of some of them leaves; blocks.sh --help tells more.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib.sh"

"$here/install.sh" mount blocks
exec "$here/isolated" python3 "$here/blocks.py" "$@"
