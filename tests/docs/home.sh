#!/usr/bin/env bash
# The one name of the repository: all documents state it, and it can be changed in one place.
set -euo pipefail
cd "$(dirname "$0")/../.."
fail() { echo "home.sh: $1" >&2; exit 1; }
scripts/support/home check
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -R Cargo.toml README.md deploy docs scripts "$copy/"
"$copy/scripts/support/home" set acme/mcp-auth-proxy
"$copy/scripts/support/home" check
[ "$("$copy/scripts/support/home")" = acme/mcp-auth-proxy ] || fail "it was not set"
! grep -rnE "OWNER/|\`OWNER\`" "$copy/README.md" "$copy/docs" "$copy/deploy" "$copy/scripts/install.sh" || fail "these still have the placeholder"
# A document that names another place is noticed.
echo 'See https://github.com/elsewhere/mcp-auth-proxy.' >>"$copy/docs/users.md"
! "$copy/scripts/support/home" check 2>/dev/null || fail "another name was not noticed"
