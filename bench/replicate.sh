#!/usr/bin/env bash
# How long changes take from one machine to another, next to other programs that do that; replicate.sh --help tells more.

source "$(dirname "${BASH_SOURCE[0]}")/../tests/lib.sh"

"$ROOT/tests/install.sh" mount copying replication
(cd "$ROOT" && cargo build --release --workspace --quiet)
exec env PYTHONPATH="$ROOT/tests" "$ROOT/tests/isolated" python3 "$ROOT/bench/replicate.py" "$@"
