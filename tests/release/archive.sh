#!/usr/bin/env bash
# Makes the release of this machine's architecture, and installs it as a stranger would.
#   archive.sh BINARY PYTHON      the static binary, and a Python with the schema of CycloneDX
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=$1 python=$2
fail() { echo "archive.sh: $1" >&2; exit 1; }

work=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$work"' EXIT
scripts/release >/dev/null
first=$(cd dist && sha256sum -- *)
scripts/release >/dev/null
[ "$first" = "$(cd dist && sha256sum -- *)" ] || fail "two runs of scripts/release differ"
(cd dist && sha256sum --quiet --check SHA256SUMS)

tar -xzf dist/*.tar.gz -C "$work"
folder=$(echo "$work"/mcp-auth-proxy-*-linux)
cmp "$binary" "$folder/mcp-auth-proxy"
for file in mcp-auth-proxy.1 completions/mcp-auth-proxy.bash completions/_mcp-auth-proxy completions/mcp-auth-proxy.fish LICENSE README.md sbom.cdx.json licenses/README.txt; do
  [ -s "$folder/$file" ] || fail "$file is missing or empty"
done
grep -q '^\.TH' "$folder/mcp-auth-proxy.1" || fail "the manual page is no manual page"
bash -n "$folder/completions/mcp-auth-proxy.bash"
# Every crate that is linked is in the list and in the bill of materials.
cargo tree --locked --edges normal,no-proc-macro --prefix none --target x86_64-unknown-linux-musl --format '{p}' \
  | awk '{ sub(/^v/, "", $2); print $1 "@" $2 }' | sort -u | grep -v '^mcp-auth-proxy@' >"$work/crates"
while read -r crate; do
  grep -q "^$crate: " "$folder/licenses/README.txt" || fail "$crate is not in the list of licences"
  grep -q "\"pkg:cargo/$crate\"" "$folder/sbom.cdx.json" || fail "$crate is not in the bill of materials"
done <"$work/crates"
[ "$(wc -l <"$work/crates")" -ge 40 ] || fail "there are too few crates"
"$python" - "$folder/sbom.cdx.json" <<'PY'
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())
sys.exit(f"the bill of materials is not valid: {errors}" if errors else 0)
PY

# From a server, and from a folder.
python3 -m http.server --bind 127.0.0.1 --directory dist 0 >"$work/http.log" 2>&1 &
server=$!
for _ in $(seq 100); do
  port=$(grep -oE 'port [0-9]+' "$work/http.log" | grep -oE '[0-9]+' || true)
  [ -n "$port" ] && break
  sleep 0.1
done
# shellcheck disable=SC2002 # a pipe, as people type it
for from in "http://127.0.0.1:$port" "$PWD/dist"; do
  cat dist/install.sh | env -i PATH="$PATH" HOME="$work/home" FROM="$from" sh >"$work/said"
  [ "$("$work/home/.local/bin/mcp-auth-proxy" --version)" = "$("$binary" --version)" ] || fail "another program was installed"
  for word in setcap AmbientCapabilities; do grep -q "$word" "$work/said" || fail "it does not say how to open ports below 1024"; done
  # systemd is kept out of homes.
  ! grep -E "ExecStart=.*(home|\\.local)" "$work/said" || fail "the unit starts what it can not reach"
  rm -r "${work:?}/home"
done
# A file that is not what the list says, and one that the list does not name.
cp -r dist "$work/forged"
echo x >>"$work/forged/mcp-auth-proxy-linux-$(uname -m)"
cp -r dist "$work/unnamed"
: >"$work/unnamed/SHA256SUMS"
for from in "$work/forged" "$work/unnamed" http://example.com/x; do
  if env -i PATH="$PATH" HOME="$work/home" FROM="$from" sh dist/install.sh >/dev/null 2>"$work/said"; then fail "$from was installed"; fi
  [ ! -e "$work/home/.local/bin/mcp-auth-proxy" ] || fail "$from left a program behind"
done
