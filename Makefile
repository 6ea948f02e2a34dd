# The names that people know from the original; the work is done by `cargo xtask`.
VERSION ?= v$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
OUTPUT ?= target/dist
CARGO ?= cargo

.PHONY: all all-binaries azure-vnet azure-vnet-ipam azure-vnet-operator azure-cni-plugin cni-archive all-images test test-all clean

all: all-binaries

all-binaries: azure-cni-plugin azure-vnet-operator

azure-cni-plugin: azure-vnet azure-vnet-ipam cni-archive

azure-vnet azure-vnet-ipam:
	$(CARGO) build --release --package azure-vnet-plugin --bin $@

azure-vnet-operator:
	$(CARGO) build --release --package azure-vnet-operator

# The archives for amd64 and arm64 (or those in ARCHITECTURE), SHA256SUMS, and the SPDX document.
cni-archive:
	$(CARGO) xtask dist --output $(OUTPUT) --version $(VERSION) $(if $(ARCHITECTURE),--architecture $(ARCHITECTURE))

all-images:
	docker build --tag azure-vnet:$(VERSION) .

test test-all:
	$(CARGO) xtask test

clean:
	rm -rf $(OUTPUT)
