# One image: the operator, both plugins, iptables (nft and legacy), and the reference plugins that our conflist chains.
# The last stage holds nothing but the tree that image/rootfs.sh assembles: no shell, no package manager.
#
#   docker build --tag REGISTRY/azure-vnet:0.1.0 .

ARG RUST=1.95
# Debian 12: what it links against is older than the C library of every node image that AKS offers, which matters for the
# chained plugins that `install` copies to the node.
FROM rust:${RUST}-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends iptables containernetworking-plugins ca-certificates \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The plugins run on the node itself, so they are static and ask nothing of it; with musl, since its processes start the fastest.
RUN target=$(uname -m)-unknown-linux-musl \
    && rustup target add "$target" \
    && RUSTFLAGS="-C relocation-model=static" \
       cargo build --locked --release --package azure-vnet-plugin --target "$target" \
    && cargo build --locked --release --package azure-vnet-operator \
    && mkdir /bins \
    && cp "target/$target/release/azure-vnet" "target/$target/release/azure-vnet-ipam" target/release/azure-vnet-operator /bins/ \
    && image/rootfs.sh /rootfs /bins

FROM scratch
COPY --from=build /rootfs /
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
LABEL org.opencontainers.image.title="azure-vnet" \
    org.opencontainers.image.description="Gives pods addresses of the Azure virtual network: operator, CNI plugins and what they need" \
    org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["/usr/bin/azure-vnet-operator"]
