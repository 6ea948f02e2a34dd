# Runs two containers with containerd's own network support. Given: IMAGE (a file), NAME (of the image). Prints the log of the plugins.
ctr images import "$IMAGE" > /dev/null
ctr run --cni --cgroup "" --detach "$NAME" server /probe serve 8080
# The second asks the first, and is taken down by containerd.
tries=0
until ctr run --cni --cgroup "" --rm "$NAME" "client$tries" /probe get 10.240.1.1:8080 5; do
    tries=$((tries + 1))
    if [ "$tries" -gt 5 ]; then exit 1; fi
done
cat /var/log/azure-vnet.log
