# The relay alone, on embedded engines unless DATABASE_URL says otherwise.
FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --locked --release --bin restante && cp target/release/restante /restante

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin restante \
    && install -d -o restante -g restante -m 0700 /data
COPY --from=build /restante /usr/local/bin/restante
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/restante/
USER restante
WORKDIR /data
ENV HOST=0.0.0.0 DATA_DIR=/data LOG_FORMAT=json
VOLUME /data
EXPOSE 8091
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["restante", "healthcheck"]
ENTRYPOINT ["restante"]
