#!/usr/bin/env bash
# Real work on a real tree, recorded, and built again from its log; real-tree.sh --help tells more.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib.sh"

tree=whole-tree
for argument in "$@"; do
    [ "$argument" != --small ] || tree=small-tree
done
"$here/install.sh" mount "$tree"
exec "$here/isolated" python3 "$here/real_tree.py" "$@"
