# syntax=docker/dockerfile:1
# The relay alone: no shell, no package manager, nobody's password. It runs on its embedded engines in /data unless
# DATABASE_URL says otherwise. scripts/check-packaging runs these steps and the image's rules without a Docker engine.
#
# Tags are as narrow as their publishers make them; whoever publishes an image pins both by digest.
FROM rust:1.95-bookworm AS build
WORKDIR /build

# The dependencies, in a layer that stays while Cargo.lock does. Tests and benches are not in the build's context.
COPY Cargo.toml Cargo.lock ./
RUN sed -i '/^\[\[\(test\|bench\|example\)\]\]/,/^$/d' Cargo.toml \
    && mkdir src && touch src/lib.rs && echo 'fn main() {}' >src/main.rs \
    && cargo build --locked --release --bin restante

# The relay. Cargo goes by times, and those of the sources may lie before the layer above.
COPY .env.example ./
COPY migrations migrations
COPY src src
RUN touch src/lib.rs src/main.rs && cargo build --locked --release --bin restante
RUN mkdir -p image/data && chmod 0700 image/data

# For backups and restores, which need a shell and Postgres' own programs: deploy/README.md tells how it is run. Not a part
# of the relay's image.
FROM postgres:17-bookworm AS tools
COPY --from=build /build/target/release/restante /usr/local/bin/restante
COPY scripts/backup scripts/restore /opt/restante/scripts/
COPY scripts/lib/archive.sh /opt/restante/scripts/lib/archive.sh
USER 65532:65532
WORKDIR /opt/restante
ENTRYPOINT ["/bin/bash"]

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="restante" \
    org.opencontainers.image.description="A zero-knowledge relay for Signal and MLS clients" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build --chown=65532:65532 /build/image/ /
COPY --from=build /build/target/release/restante /usr/local/bin/restante
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/restante/
USER 65532:65532
WORKDIR /data
ENV HOST=0.0.0.0 DATA_DIR=/data LOG_FORMAT=json
VOLUME ["/data"]
EXPOSE 8091 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["/usr/local/bin/restante", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/restante"]
