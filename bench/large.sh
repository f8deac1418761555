#!/usr/bin/env bash
# A tree of a million files under a mount; large.sh --help tells more.

source "$(dirname "${BASH_SOURCE[0]}")/../tests/lib.sh"

"$ROOT/tests/install.sh" mount
exec env PYTHONPATH="$ROOT/tests" "$ROOT/tests/isolated" python3 "$ROOT/bench/large.py" "$@"
