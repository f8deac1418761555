#!/usr/bin/env bash
# What taking in another replica's records costs, next to the calls that they tell of; reintegrate.sh --help tells more.

source "$(dirname "${BASH_SOURCE[0]}")/../tests/lib.sh"

"$ROOT/tests/install.sh" mount small-tree copying
(cd "$ROOT" && cargo build --release --workspace --quiet)
exec env PYTHONPATH="$ROOT/tests" "$ROOT/tests/isolated" python3 "$ROOT/bench/reintegrate.py" "$@"
