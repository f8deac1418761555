#!/usr/bin/env bash
# Foreign programs on one mount for a long time; soak.sh --help tells more.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib.sh"

"$here/install.sh" mount suites
exec "$here/isolated" python3 "$here/soak.py" "$@"
