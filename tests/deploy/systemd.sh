#!/usr/bin/env bash
# What systemd's own tools say about the units, and whether the proxy works below systemd-socket-activate.
#   systemd.sh BINARY
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=$(realpath "$1")
units=deploy/systemd
passed=0 failed=0
check() { # name command...
  local name=$1; shift
  if "$@" >"$work/said" 2>&1; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAIL  $name"; sed 's/^/      /' "$work/said"; fi
}
work=$(mktemp -d)
trap 'kill ${activated:-} 2>/dev/null; rm -rf "$work"' EXIT

# What the installer prints is the unit.
printed() {
  sed -n '/^  \[Unit\]/,/^  WantedBy/p' scripts/install.sh | sed 's/^  //' | diff - "$units/mcp-auth-proxy.service"
}
check "the installer prints the unit" printed

# systemd's tools read units from a root of their own, where what they start has to be.
root=$work/root
mkdir -p "$root/etc/systemd/system/mcp-auth-proxy.service.d" "$root/usr/local/bin" "$work/stdio"
cp "$units"/*.service "$units"/*.socket "$root/etc/systemd/system/"
cp "$binary" "$root/usr/local/bin/mcp-auth-proxy"
rated() { # threshold, tenths
  systemd-analyze security --no-pager --offline=true --root="$root" --threshold="$1" mcp-auth-proxy.service
}
exposure() { sed -nE 's/.*exposure level for .*: ([0-9.]+) .*/\1/p' "$work/said"; }
check "the unit is rated 2 or better" rated 20
echo "systemd-analyze security: $(exposure) for a server at a URL"
cp "$units/stdio.conf" "$root/etc/systemd/system/mcp-auth-proxy.service.d/"
check "with the drop-in for stdio servers it is rated 5 or better" rated 50
echo "systemd-analyze security: $(exposure) for a server over stdio"
# A rating of a unit that has less must be worse, or the check sees nothing.
sed -i '/^\(Protect\|Restrict\|System\|Private\|NoNew\|Capab\|Memory\|User\)/d' "$root/etc/systemd/system/mcp-auth-proxy.service"
rm "$root/etc/systemd/system/mcp-auth-proxy.service.d/stdio.conf"
if rated 20 >/dev/null 2>&1; then failed=$((failed + 1)); echo "FAIL  a unit that protects nothing has a good rating"; else passed=$((passed + 1)); fi

# Words that systemd does not know are warnings of `verify`. Paths of this machine stand for those of the real one.
verified() { # drop-in?
  local folder=$work/verify
  rm -rf "$folder" && mkdir -p "$folder/mcp-auth-proxy.service.d"
  sed "s#/usr/local/bin/mcp-auth-proxy#$binary#; s#^User=mcp-auth-proxy#User=daemon#" "$units/mcp-auth-proxy.service" >"$folder/mcp-auth-proxy.service"
  cp "$units/mcp-auth-proxy.socket" "$folder/"
  if [ "$1" = yes ]; then sed "s#/usr/local/bin/mcp-auth-proxy#$binary#" "$units/stdio.conf" >"$folder/mcp-auth-proxy.service.d/stdio.conf"; fi
  local said
  said=$(SYSTEMD_UNIT_PATH="$folder:" systemd-analyze verify "$folder/mcp-auth-proxy.service" "$folder/mcp-auth-proxy.socket" 2>&1 | grep -F mcp-auth-proxy || true)
  [ -z "$said" ] || { echo "$said"; return 1; }
}
check "systemd knows every line of the unit" verified no
check "systemd knows every line of the drop-in" verified yes
# Each line of the drop-in stands below the reason for it.
explained() {
  awk '/^#/ { why = 1; next } /^\[/ { why = 0; next } /^[A-Z]/ { if (!why && $0 !~ /^(ExecStart|CapabilityBoundingSet|ReadWritePaths)=/) { print "no reason for " $0; bad = 1 } } /^$/ { why = 0 } END { exit bad }' "$units/stdio.conf"
}
check "every exception has its reason" explained

# Socket activation by systemd's own tool: the first connection starts the proxy, and is answered.
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free) metrics=$(free)
env -i PATH="$PATH" systemd-socket-activate --listen="127.0.0.1:$port" --listen="127.0.0.1:$metrics" "$binary" \
  --listen "127.0.0.1:$port" --external-url "http://localhost:$port" --metrics-listen ":$metrics" --password x \
  --data-path "$work/data" --no-upstream-check http://127.0.0.1:9 >"$work/activated.log" 2>&1 &
activated=$!
asked() { # url
  for _ in $(seq 100); do
    if python3 -c 'import sys, urllib.request as r; sys.exit(r.urlopen(sys.argv[1], timeout=10).status != 200)' "$1" 2>"$work/asked"; then return; fi
    sleep 0.1
  done
  cat "$work/asked" "$work/activated.log"
  return 1
}
check "the first connection to an activated proxy is answered" asked "http://127.0.0.1:$port/.idp/healthz"
check "its second socket is the monitoring port" asked "http://127.0.0.1:$metrics/healthz"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
