# The one image: operator, webhook, proxies and sidecars.
#
#   docker build --tag skep:dev .
#
# Its entry point is the proxy, under the name by which ToolHive's operator starts it; whoever wants something else
# names the command: /skep operator, /skep webhook, /skep sidecar ...

FROM rust:1.95-slim-bookworm AS build
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY crates crates
COPY tests/e2e tests/e2e
COPY benches benches
COPY examples examples
RUN cargo build --release --locked --package skep --bin skep

FROM debian:12-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && ln -s skep /thv-proxyrunner
COPY --from=build /source/target/release/skep /skep
# Numbers, so that a pod with runAsNonRoot needs not say who that is.
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/thv-proxyrunner"]
