#!/usr/bin/env bash
# Builds the binary once more, from a copy of the sources in another place, and compares.
#   reproducible.sh BINARY
# Only the standard library may be the same object: it comes from the same place in either build.
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=$(realpath "$1")
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z | xargs -0 cp --parents -t "$copy"
export SOURCE_COMMIT
SOURCE_COMMIT=$(git rev-parse HEAD)
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export CARGO_TARGET_DIR
cp "$binary" "$copy/first"
again=$("$copy/scripts/build-static" | tail -n 1)
cmp "$copy/first" "$again"
