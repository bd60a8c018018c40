# Two images:
#   docker build -t mcp-auth-proxy:latest .                   the static binary and nothing else, for servers at a URL
#   docker build -t mcp-auth-proxy:full --target full .       with Node and Python, for the commands of stdio servers

FROM --platform=$BUILDPLATFORM docker.io/library/rust:1.95-slim-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ARG BUILDARCH
ARG TARGETARCH
# The parts in C are compiled by clang for another machine, and by gcc for this one.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates git musl-tools \
 && if [ "$TARGETARCH" != "$BUILDARCH" ]; then apt-get install -y --no-install-recommends clang llvm; fi \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /mcp-auth-proxy
COPY . .
# The commit, where .git is not part of what is copied.
ARG SOURCE_COMMIT=""
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/mcp-auth-proxy/target,sharing=locked,id=target-$TARGETARCH \
    git config --global --add safe.directory /mcp-auth-proxy \
 && case "$TARGETARCH" in amd64) arch=x86_64 ;; arm64) arch=aarch64 ;; arm) arch=armv7 ;; *) arch="$(uname -m)" ;; esac \
 && binary="$(scripts/build-static "$arch" | tail -n 1)" \
 && install -D -m 755 "$binary" /image/mcp-auth-proxy \
 && install -d -m 700 /image/data

# Node and Python with uv, and a user for what they run.
FROM docker.io/library/node:24-bookworm-slim AS full
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates git python3 python3-pip python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && pip3 install --no-cache-dir --break-system-packages uv==0.13.9 \
 && useradd --create-home --uid 10001 --shell /bin/bash mcp-server
COPY --from=build /image/mcp-auth-proxy /usr/local/bin/mcp-auth-proxy
COPY --from=build --chmod=700 /image/data /data
ENV DATA_PATH=/data LISTEN=:80
VOLUME /data
EXPOSE 80 443
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s CMD ["/usr/local/bin/mcp-auth-proxy", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/mcp-auth-proxy"]

FROM scratch AS latest
COPY --from=build /image/ /
# The public authorities are in the binary; this is for who looks for the usual file.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV DATA_PATH=/data LISTEN=:80
VOLUME /data
EXPOSE 80 443
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s CMD ["/mcp-auth-proxy", "healthcheck"]
ENTRYPOINT ["/mcp-auth-proxy"]
