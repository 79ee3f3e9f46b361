FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches keep dependencies compiled between builds; hence the copy out of target.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked && cp target/release/cutover /cutover

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="cutover" \
    org.opencontainers.image.description="Moves live traffic from a legacy backend to its successor" \
    org.opencontainers.image.licenses="Apache-2.0"

# Both directories exist with their owner here, so that a new volume mounted there inherits it.
RUN groupadd --gid 10001 cutover \
    && useradd --uid 10001 --gid cutover --no-create-home --shell /usr/sbin/nologin cutover \
    && install -d -m 0750 -o cutover -g cutover /var/lib/cutover /run/cutover
COPY --from=build /cutover /usr/local/bin/cutover
# A number, so that Kubernetes can see for itself that it is not root.
USER 10001:10001
# All that is ever written to: the root file system can be read-only.
VOLUME /var/lib/cutover

ENV CUTOVER_CONFIG=/etc/cutover/cutover.toml
EXPOSE 8080 9900

# Exits 0 only if /readyz says ready, so a draining proxy is unhealthy from the first moment.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/cutover", "status", "--ready"]

# SIGTERM drains: `docker stop --time` must be longer than the drain may take.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/cutover"]
CMD ["run", "--config", "/etc/cutover/cutover.toml"]
