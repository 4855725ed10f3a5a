# Holdfast in a container: `make image` builds it, `make image-test` runs it.
#
# Base images are arguments: pin them by digest (NAME@sha256:...) where images are given away, or take those that deploy/dev/base-images.sh
# makes where no registry can be reached. The C library of the second must not be older than that of the first.
ARG BUILDER=docker.io/library/rust:1.95-bookworm
# C library, OpenSSL 3, libgcc and certificate authorities; neither shell nor package manager.
ARG RUNTIME=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILDER} AS build
# OpenPGP and zstd are compiled against these.
RUN if ! command -v clang >/dev/null || ! pkg-config --exists openssl; then \
        apt-get update && apt-get install --yes --no-install-recommends clang libclang-dev libssl-dev pkg-config; \
    fi
# `true` where all crates are in the mounted registry of cargo.
ARG CARGO_NET_OFFLINE=false
# A panic names its place all the same.
ENV CARGO_PROFILE_RELEASE_STRIP=symbols CARGO_INCREMENTAL=0
WORKDIR /build
# The dependencies have a layer of their own: it is made again when Cargo.lock changes, not with every change of the program.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src deploy/supply && touch src/lib.rs && echo 'fn main() {}' | tee build.rs src/main.rs deploy/supply/main.rs >/dev/null && \
    CARGO_NET_OFFLINE=${CARGO_NET_OFFLINE} cargo build --locked --release --bin holdfast && rm -r build.rs src deploy
COPY build.rs ./
COPY proto proto
COPY deploy/catalog.toml deploy/catalog.toml
COPY deploy/supply deploy/supply
COPY src src
RUN touch build.rs src/*.rs && CARGO_NET_OFFLINE=${CARGO_NET_OFFLINE} cargo build --locked --release --bin holdfast
# Not before: C code is compiled anew when this changes.
ARG SOURCE_DATE_EPOCH=0
RUN install -D target/release/holdfast /out/holdfast && touch --date="@${SOURCE_DATE_EPOCH}" /out/holdfast

FROM ${RUNTIME}
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="Holdfast" \
    org.opencontainers.image.description="Backs up and restores the application data of a platform that keeps it in PostgreSQL" \
    org.opencontainers.image.vendor="Holdfast" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}" \
    org.opencontainers.image.source="${SOURCE}"
COPY --from=build /out/holdfast /usr/bin/holdfast
# What has to go with a binary that is given away; `make notices` before `make image` makes the rest of it.
COPY LICENSE NOTICE target/notice[s] /usr/share/doc/holdfast/
# Nothing is written but the backup folder, so any user does, and the root file system may be read-only.
USER 65532:65532
# gRPC, health, metrics
EXPOSE 50051 8086 9464
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/holdfast"]
CMD ["serve"]
