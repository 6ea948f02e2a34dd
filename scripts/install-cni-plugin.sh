#!/bin/bash
# Installs azure-vnet and the reference CNI plugins that its configuration chains.
#
#   install-cni-plugin.sh AZURE_CNI_VERSION [CNI_PLUGINS_VERSION] [--from FOLDER_OR_URL]
#
#   AZURE_CNI_VERSION    of azure-vnet-cni-linux-ARCH-VERSION.tgz, as `cargo xtask dist` makes it: v0.1.0
#   CNI_PLUGINS_VERSION  of cni-plugins-linux-ARCH-VERSION.tgz; without it the reference plugins that are there are used
#   --from               where both archives and SHA256SUMS are: a folder, or a URL without the file names. Default: this folder
#
# Both are unpacked only if their checksum is right. CNI_BIN_DIR and CNI_CONF_DIR name other folders than /opt/cni/bin and /etc/cni/net.d.
set -euo pipefail

bin_dir=${CNI_BIN_DIR:-/opt/cni/bin}
conf_dir=${CNI_CONF_DIR:-/etc/cni/net.d}
# What the shipped configuration chains, and what every runtime wants.
reference="loopback portmap"

usage() {
    sed -n 's/^# \{0,1\}//; 2,10p' "$0" >&2
    exit 1
}
fail() {
    echo "$0: $*" >&2
    exit 1
}

from=. versions=()
while [ $# -gt 0 ]; do
    case "$1" in
    --from)
        [ $# -ge 2 ] || usage
        from=$2
        shift
        ;;
    -*) usage ;;
    *) versions+=("$1") ;;
    esac
    shift
done
[ ${#versions[@]} -ge 1 ] && [ ${#versions[@]} -le 2 ] || usage

case "$(uname -m)" in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*) fail "no plugins are built for $(uname -m)" ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fetch() {
    case "$from" in
    http://*) fail "$from: use https:// or a folder" ;;
    https://*) curl --fail --silent --show-error --location --output "$work/$1" "${from%/}/$1" ;;
    *) cp "$from/$1" "$work/$1" 2>/dev/null || fail "there is no $1 in $from" ;;
    esac
}

# fetch_checked ARCHIVE: takes it only if SHA256SUMS names it, and rightly.
fetch_checked() {
    fetch "$1"
    grep --fixed-strings "  $1" "$work/SHA256SUMS" >"$work/sum" || fail "SHA256SUMS does not name $1"
    (cd "$work" && sha256sum --check --quiet sum >/dev/null 2>&1) || fail "the checksum of $1 is wrong: nothing was installed"
}

# place FILE FOLDER MODE: no reader sees half a file.
place() {
    install --mode "$3" "$1" "$2/.$(basename "$1").new"
    mv --force "$2/.$(basename "$1").new" "$2/$(basename "$1")"
}

fetch SHA256SUMS
azure="azure-vnet-cni-linux-$arch-${versions[0]}.tgz"
fetch_checked "$azure"
mkdir "$work/azure" "$work/reference"
tar --extract --gzip --file "$work/$azure" --directory "$work/azure"
if [ ${#versions[@]} -eq 2 ]; then
    plugins="cni-plugins-linux-$arch-${versions[1]}.tgz"
    fetch_checked "$plugins"
    tar --extract --gzip --file "$work/$plugins" --directory "$work/reference"
fi

mkdir -p "$bin_dir" "$conf_dir"
for name in $reference; do
    found=$(find "$work/reference" -type f -name "$name" | head -n 1)
    if [ -n "$found" ]; then
        place "$found" "$bin_dir" 755
    elif [ ! -x "$bin_dir/$name" ]; then
        fail "$bin_dir/$name is missing and no version of the reference plugins was given: pass CNI_PLUGINS_VERSION"
    fi
done
for name in azure-vnet-ipam azure-vnet; do
    place "$work/azure/$name" "$bin_dir" 755
    "$bin_dir/$name" --version >/dev/null || fail "$bin_dir/$name does not run here"
done
# Last: a runtime that finds it may use it at once.
for list in "$work"/azure/*.conflist; do
    place "$list" "$conf_dir" 644
done
echo "installed azure-vnet ${versions[0]} to $bin_dir, its configuration to $conf_dir"
