#!/bin/sh
# Installs mcp-auth-proxy: fetches the binary for this machine, checks it against the list of checksums, and puts it into a
# folder of yours. No root is needed.
#   curl -fsSL URL/install.sh | sh            into ~/.local/bin
#   … | TO=/usr/local/bin sh                  elsewhere
#   … | FROM=URL sh                           from another place, or a folder
# It changes nothing else; to remove it, remove the one file.
set -eu
from=${FROM:-}
to=${TO:-$HOME/.local/bin}

fail() { echo "install.sh: $1" >&2; exit 1; }
[ -n "$from" ] || fail "say where the release is, for instance FROM=https://github.com/OWNER/mcp-auth-proxy/releases/latest/download"

[ "$(uname -s)" = Linux ] || fail "there are binaries for Linux only; on other systems build it with: cargo install --path ."
case $(uname -m) in
  x86_64 | amd64) arch=x86_64 ;;
  aarch64 | arm64) arch=aarch64 ;;
  armv7* | armv8l) arch=armv7 ;;
  *) fail "there is no binary for $(uname -m); build it with: cargo install --path ." ;;
esac
file=mcp-auth-proxy-linux-$arch

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
fetch() { # name
  case $from in
    https://* | http://127.0.0.1:* | http://localhost:*)
      if command -v curl >/dev/null; then
        curl -fsSL --proto '=https,http' --proto-redir '=https' -o "$work/$1" "$from/$1"
      elif command -v wget >/dev/null; then
        wget -qO "$work/$1" "$from/$1"
      else
        fail "neither curl nor wget is there; install one of them"
      fi
      ;;
    http://*) fail "$from is not https: anyone on the way could change what is fetched" ;;
    *) cp "$from/$1" "$work/$1" ;;
  esac || fail "$from/$1 can't be fetched"
}
fetch SHA256SUMS
fetch "$file"
wanted=$(awk -v name="$file" '$2 == name || $2 == "*" name { print $1 }' "$work/SHA256SUMS")
[ -n "$wanted" ] || fail "the list of checksums does not name $file"
found=$(sha256sum "$work/$file" | cut -d' ' -f1)
[ "$wanted" = "$found" ] || fail "$file is not what the list of checksums says ($found instead of $wanted); nothing was installed"

mkdir -p "$to" 2>/dev/null || true
[ -w "$to" ] || fail "$to can't be written: choose a folder of yours with TO=…, or run it as root"
chmod 755 "$work/$file"
# On the same file system first, so that a program that runs is replaced at one moment.
mv "$work/$file" "$to/.mcp-auth-proxy.new"
mv "$to/.mcp-auth-proxy.new" "$to/mcp-auth-proxy"
echo "installed $("$to/mcp-auth-proxy" --version) into $to"
case :$PATH: in
  *":$to:"*) ;;
  *) echo "$to is not in your PATH; add it, or type $to/mcp-auth-proxy" ;;
esac
echo
echo "Try it:   mcp-auth-proxy demo"
cat <<NOTE
Ports below 1024, as https needs them, want a right of their own:
  sudo setcap cap_net_bind_service=+ep $to/mcp-auth-proxy
or a service that systemd starts with it, which can't use a home directory:
  sudo install -m 755 $to/mcp-auth-proxy /usr/local/bin/
  sudo useradd --system mcp-auth-proxy
  sudo install -m 600 -o mcp-auth-proxy /dev/null /etc/mcp-auth-proxy.env
Then put your options into that file, such as PASSWORD=…, and this into /etc/systemd/system/mcp-auth-proxy.service:

  [Unit]
  Description=OAuth 2.1 in front of an MCP server
  Wants=network-online.target
  After=network-online.target

  [Service]
  Type=notify
  WatchdogSec=60s
  ExecStart=/usr/local/bin/mcp-auth-proxy http://127.0.0.1:3001
  ExecReload=/usr/local/bin/mcp-auth-proxy reload
  Environment=ENV_FILE=/etc/mcp-auth-proxy.env
  Environment=DATA_PATH=%S/mcp-auth-proxy
  StateDirectory=mcp-auth-proxy
  StateDirectoryMode=0700
  LogsDirectory=mcp-auth-proxy
  LogsDirectoryMode=0750
  User=mcp-auth-proxy
  AmbientCapabilities=CAP_NET_BIND_SERVICE
  CapabilityBoundingSet=CAP_NET_BIND_SERVICE
  NoNewPrivileges=yes
  ProtectSystem=strict
  ProtectHome=yes
  PrivateTmp=yes
  PrivateDevices=yes
  ProtectClock=yes
  ProtectControlGroups=yes
  ProtectHostname=yes
  ProtectKernelLogs=yes
  ProtectKernelModules=yes
  ProtectKernelTunables=yes
  ProtectProc=invisible
  ProcSubset=pid
  LockPersonality=yes
  MemoryDenyWriteExecute=yes
  RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
  RestrictNamespaces=yes
  RestrictRealtime=yes
  RestrictSUIDSGID=yes
  RemoveIPC=yes
  SystemCallArchitectures=native
  SystemCallFilter=@system-service
  SystemCallFilter=~@privileged @resources
  SystemCallErrorNumber=EPERM
  UMask=0077
  LimitNOFILE=65536
  Restart=always

  [Install]
  WantedBy=multi-user.target

and start it: sudo systemctl enable --now mcp-auth-proxy
NOTE
