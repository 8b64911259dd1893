# VaultDB in a container. Plain `docker build .` compiles it from source in a public Rust image.
#
# Where no registry is reachable, the compile stage takes a finished binary from the build context
# instead: BUILD_IMAGE=debian:bookworm-slim and PREBUILT=<its path in the context>. The choice is an
# `if` and not a stage of its own, because the engine's older builder runs every stage.
# scripts/compose-test.sh builds that way.

ARG BUILD_IMAGE=rust:1-bookworm

FROM ${BUILD_IMAGE} AS build
ARG PREBUILT=
# bindgen reads RocksDB's headers with libclang; g++ and make come with the Rust image.
RUN if [ -z "$PREBUILT" ]; then \
        apt-get update && \
        apt-get install -y --no-install-recommends clang libclang-dev && \
        rm -rf /var/lib/apt/lists/*; \
    fi
WORKDIR /src
COPY . .
RUN if [ -z "$PREBUILT" ]; then \
        cargo build --release --locked --bin vaultdb && PREBUILT=target/release/vaultdb; \
    fi && \
    install -D -m 0755 "$PREBUILT" /out/vaultdb

FROM debian:bookworm-slim AS runtime
# A number is enough: the node needs no account, and Kubernetes can check that it is not root.
RUN install -d -o 10001 -g 10001 -m 0700 /data
COPY --from=build /out/vaultdb /usr/local/bin/vaultdb
USER 10001:10001
VOLUME /data
EXPOSE 11000 12000
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 CMD ["vaultdb", "probe"]
ENTRYPOINT ["vaultdb"]
