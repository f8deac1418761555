# Sourced by the shell scripts of this folder.

set -Eeuo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# What is downloaded or built once, for all work trees of this user.
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/mezzo-tests
# Where cargo puts what it builds; what cargo itself was told wins.
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
export CACHE TARGET

say() { printf '%s\n' "$*" >&2; }
fail() { say "FAILED: $*"; exit 1; }

# The path of a program that install.sh built: tool CRATE VERSION.
tool() { printf '%s/%s-%s/bin/%s' "$CACHE" "$1" "$2" "$1"; }
