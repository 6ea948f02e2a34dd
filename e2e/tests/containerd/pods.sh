# Runs two pods through the runtime interface, as a kubelet does. Given: CRI (the client), IMAGES (files), NAME (of the probe's image), PAUSE. Prints
# the log of the plugins, and what is left.
cri() {
    "$CRI" /run/containerd.sock "$@" || {
        cat /run/pods/*/probe.log /run/containerd.log
        return 1
    }
}
for image in $IMAGES; do ctr --namespace k8s.io images import "$image" > /dev/null; done
cri ready "$PAUSE" "$NAME"
server=$(cri start server "$NAME" /probe serve 8080)
echo "server: $server"
# The second asks the first.
tries=0
until cri run "client$tries" "$NAME" /probe get "${server##* }:8080" 5; do
    tries=$((tries + 1))
    if [ "$tries" -gt 5 ]; then exit 1; fi
done
cri end "${server%% *}"
cat /var/log/azure-vnet.log
echo "links left: $(ip -brief link | grep -c "^azv")"
echo "leases left: $(cat /run/azure-vnet/lease/* | grep -c " leased ")"
