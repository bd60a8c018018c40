#!/usr/bin/env bash
# What the image without programs holds, put together as its Dockerfile does, and started as an engine starts it: as the first
# process of a container, with a directory that the engine has made.
#   image.sh BINARY
set -euo pipefail
fail() { echo "image.sh: $1" >&2; exit 1; }
binary=$1
root=$(mktemp -d)
port=$((20000 + RANDOM % 10000))
container=
trap '[ -z "$container" ] || kill -KILL "$container" 2>/dev/null || true; wait 2>/dev/null; rm -rf "$root"' EXIT

chroot=$(command -v chroot || echo /usr/sbin/chroot)
# Runs the image's program as process 1, with /proc and the environment that an engine gives; it gets SIGTERM with the end of this one.
inside() { # argument...
  # shellcheck disable=SC2016 # expanded by the inner shell
  exec unshare --mount --pid --fork --kill-child=TERM sh -c 'mount -t proc proc "$0/proc" && exec "$@"' "$root" "$@"
}
# The words that `exec "$@"` above begins with.
image=(env -i "PATH=/usr/local/bin:/usr/bin:/bin" DATA_PATH=/data EXTERNAL_URL=http://localhost "LISTEN=127.0.0.1:$port" PASSWORD=changeme "$chroot" "$root" /mcp-auth-proxy)
check() { env -i DATA_PATH=/data "$chroot" "$root" /mcp-auth-proxy healthcheck 2>"$root/said"; }

start() { # argument...
  (inside "${image[@]}" "$@") 2>"$root/log" &
  container=$!
  for _ in $(seq 200); do
    grep -q ready: "$root/log" && break
    sleep 0.05
  done
  grep -q ready: "$root/log" || fail "it did not start: $(cat "$root/log")"
  check || fail "it is not healthy: $(cat "$root/said")"
}

stop() {
  # It does not hear SIGTERM itself, but passes it on with its end.
  kill -KILL "$container"
  wait "$container" 2>/dev/null || true
  container=
  for _ in $(seq 200); do
    grep -q stopped "$root/log" && break
    sleep 0.05
  done
  grep -q stopped "$root/log" || fail "it did not stop in order: $(cat "$root/log")"
  ! check || fail "it is healthy though it has ended"
}

install -D -m 755 "$binary" "$root/mcp-auth-proxy"
install -d -m 755 "$root/data" "$root/proc"
start http://127.0.0.1:1
[ "$(stat -c %a "$root/data")" = 700 ] || fail "the data directory is open to others"
stop

# A command: this image has none, and says which has.
said=$( (inside "${image[@]}" -- npx -y server) 2>&1 || true)
case $said in
  *"no programs at all"*full*) ;;
  *) fail "it does not say that there are no programs: $said" ;;
esac
# A server over stdio that is the binary itself, under the first process that such a container has.
start -- /mcp-auth-proxy stdio-demo
stop
