#!/bin/bash
# Assembles the root file system of the image, for the Dockerfile and for the lab alike.
#
#   image/rootfs.sh DEST BIN_DIR
#
# BIN_DIR holds azure-vnet-operator, azure-vnet and azure-vnet-ipam. The rest comes from this machine, which is Debian (or a
# kin of it) with the packages iptables, containernetworking-plugins and ca-certificates. The same inputs give the same tree,
# down to modes and times; it contains no shell and no package manager.
set -euo pipefail
export LC_ALL=C
umask 022

if [ $# -ne 2 ]; then
    echo "usage: $0 DEST BIN_DIR" >&2
    exit 2
fi
dest=$1 bin=$2
plugins=${CNI_PLUGINS:-/usr/lib/cni}

fail() {
    echo "$0: $*" >&2
    exit 1
}

[ ! -e "$dest" ] || [ -z "$(ls -A "$dest")" ] || fail "$dest is not empty: remove it, or name another folder"
for file in azure-vnet-operator azure-vnet azure-vnet-ipam; do
    [ -x "$bin/$file" ] || fail "$bin/$file is missing: build it first (cargo build)"
done
for file in portmap bandwidth tuning loopback; do
    [ -x "$plugins/$file" ] || fail "$plugins/$file is missing: apt-get install containernetworking-plugins"
done
xtables_nft=$(command -v xtables-nft-multi || true)
xtables_legacy=$(command -v xtables-legacy-multi || true)
[ -n "$xtables_nft" ] && [ -n "$xtables_legacy" ] || fail "iptables is missing: apt-get install iptables"
certificates=/etc/ssl/certs/ca-certificates.crt
[ -s "$certificates" ] || fail "$certificates is missing: apt-get install ca-certificates"

# A library keeps the path at which the dynamic linker of this machine finds it.
libraries() {
    local file library
    for file in "$@"; do
        { ldd "$file" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do
            [ "$library" = "$file:" ] || echo "$library"
        done
    done | sort -u
}
copy_libraries() {
    local library
    for library in $(libraries "$@"); do
        [ -e "$dest$library" ] || install -D -m 755 "$(readlink -f "$library")" "$dest$library"
    done
}

mkdir -p "$dest"
install -d -m 755 "$dest"/{usr/bin,usr/sbin,usr/lib,usr/lib64,opt/azure-vnet/bin,opt/cni/bin}
install -d -m 755 "$dest"/{etc/ssl/certs,etc/cni/net.d,run,var/lib,var/log,host,proc,sys,dev}
install -d -m 1777 "$dest/tmp"
for folder in bin sbin lib lib64; do
    ln -s "usr/$folder" "$dest/$folder"
done
ln -s ../run "$dest/var/run"

install -m 755 "$bin/azure-vnet-operator" "$dest/usr/bin/azure-vnet-operator"
ln -s azure-vnet-operator "$dest/usr/bin/kubectl-azure_vnet"
install -m 755 "$bin/azure-vnet" "$bin/azure-vnet-ipam" "$dest/opt/azure-vnet/bin/"
install -m 755 "$plugins"/{portmap,bandwidth,tuning,loopback} "$dest/opt/azure-vnet/bin/"

# Both back ends: which one the rules go through is the node's matter, not the image's.
install -m 755 "$xtables_nft" "$dest/usr/sbin/xtables-nft-multi"
install -m 755 "$xtables_legacy" "$dest/usr/sbin/xtables-legacy-multi"
for family in iptables ip6tables; do
    for backend in nft legacy; do
        for command in "$family-$backend" "$family-$backend-save" "$family-$backend-restore"; do
            ln -s "xtables-$backend-multi" "$dest/usr/sbin/$command"
        done
    done
    for suffix in "" -save -restore; do
        ln -s "$family-nft$suffix" "$dest/usr/sbin/$family$suffix"
    done
done
extensions=$(dirname "$(find /usr/lib /usr/lib64 -path '*/xtables/libxt_comment.so' -print -quit)")
[ -d "$extensions" ] || fail "the extensions of iptables are missing: apt-get install iptables"
install -d -m 755 "$dest$extensions"
cp -P --no-preserve=all "$extensions"/*.so "$dest$extensions/"

copy_libraries "$dest/usr/bin/azure-vnet-operator" "$dest"/usr/sbin/xtables-*-multi "$extensions"/*.so

install -m 644 "$certificates" "$dest/etc/ssl/certs/ca-certificates.crt"
cat >"$dest/etc/passwd" <<'END'
root:x:0:0:root:/:/sbin/nologin
nonroot:x:65532:65532:nonroot:/:/sbin/nologin
END
cat >"$dest/etc/group" <<'END'
root:x:0:
nonroot:x:65532:
END
cat >"$dest/etc/nsswitch.conf" <<'END'
passwd: files
group: files
hosts: files dns
protocols: files
services: files
END
cat >"$dest/etc/protocols" <<'END'
ip 0 IP
icmp 1 ICMP
tcp 6 TCP
udp 17 UDP
sctp 132 SCTP
END

find "$dest" -type f -path '*/xtables/*' -exec chmod 644 {} +
find "$dest" -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +
