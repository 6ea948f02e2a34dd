# A machine with containerd, in namespaces that end with this shell. Given: TOOLS (containerd, ctr, shim), PLUGINS, CONFLIST, INTERFACES, PAUSE (the
# name of the image of pods).
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs /opt
mkdir -p /opt/cni/bin /opt/etc
cp "$PLUGINS/azure-vnet" /usr/lib/cni/loopback /usr/lib/cni/portmap /opt/cni/bin/
for name in passwd group ld.so.cache ld.so.conf ld.so.conf.d alternatives; do
    if [ -e "/etc/$name" ]; then cp -a "/etc/$name" /opt/etc/; fi
done
for folder in /run /var/log /var/lib /etc; do mount -t tmpfs tmpfs "$folder"; done
cp -a /opt/etc/. /etc/
mkdir -p /etc/kubernetes /etc/cni/net.d
echo "$INTERFACES" > /etc/kubernetes/interfaces.json
echo "127.0.0.1 localhost" > /etc/hosts
echo "nameserver 168.63.129.16" > /etc/resolv.conf
echo "$CONFLIST" > /etc/cni/net.d/10-azure.conflist
echo 1 > /proc/sys/net/ipv4/ip_forward
ip link set lo up
ip link add eth0 address 02:00:00:00:00:04 type veth peer name fabric
ip link set fabric up
ip link set eth0 up
ip address add 10.240.0.4/16 dev eth0
cat > /run/containerd.toml <<TOML
version = 2
root = "/run/root"
state = "/run/state"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "/run/containerd.sock"
# Without control groups, which would outlive this.
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE"
  disable_apparmor = true
  disable_cgroup = true
  restrict_oom_score_adj = true
TOML
PATH="$TOOLS:$PATH"
export CONTAINERD_ADDRESS=/run/containerd.sock
containerd --version
containerd --config /run/containerd.toml > /run/containerd.log 2>&1 &
tries=0
until ctr version > /dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ]; then cat /run/containerd.log; exit 1; fi
    sleep 0.1
done
