#!/usr/bin/env bash
# Crashes the simulated host of replicas at every step of random histories; sim.sh --help tells more.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib.sh"
cd "$ROOT"

cargo build --release --quiet -p mezzo-sim
exec "$here/isolated" "$TARGET/release/sim" "$@"
