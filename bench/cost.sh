#!/usr/bin/env bash
# What a mount costs, next to the bare host file system; cost.sh --help tells more.

source "$(dirname "${BASH_SOURCE[0]}")/../tests/lib.sh"

"$ROOT/tests/install.sh" mount small-tree
(cd "$ROOT" && cargo build --release --workspace --quiet)
exec env PYTHONPATH="$ROOT/tests" "$ROOT/tests/isolated" python3 "$ROOT/bench/cost.py" "$@"
