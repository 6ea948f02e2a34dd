#!/bin/bash
# Runs a container with addresses of the VNET, or gives them to any network namespace, and takes them back: what a container runtime does with
# the CNI configurations of a folder, all of them in the order of their names, and back in the reverse order.
#
#   docker-run.sh NAME NAMESPACE IMAGE               docker run --net=none, then ADD
#   docker-run.sh --netns PATH NAME NAMESPACE        ADD for a network namespace that is there
#   docker-run.sh --del NAME NAMESPACE               DEL, then docker rm of what the first form made
#
# The nth configuration makes the interface eth(n-1). DEBUG=1 prints each result. Needs jq, and docker for the first form.
# CNI_CONF_DIR, CNI_PATH and STATE_DIR name other folders than /etc/cni/net.d, /opt/cni/bin and /run/azure-vnet-docker.
set -euo pipefail

conf_dir=${CNI_CONF_DIR:-/etc/cni/net.d}
export CNI_PATH=${CNI_PATH:-/opt/cni/bin}
state_dir=${STATE_DIR:-/run/azure-vnet-docker}

usage() {
    sed -n 's/^# \{0,1\}//; 2,11p' "$0" >&2
    exit 2
}
fail() {
    echo "$name : $*" >&2
    exit 1
}

# plugin COMMAND LIST INDEX IFNAME PREVIOUS: runs one plugin of a list; prints its result, or {} where it has none.
plugin() {
    local command=$1 list=$2 index=$3 ifname=$4 previous=$5 type config
    type=$(jq -r ".plugins[$index].type" <<<"$list")
    config=$(jq -c --argjson previous "$previous" --argjson index "$index" \
        '.plugins[$index] + {name, cniVersion} + (if $previous == {} then {} else {prevResult: $previous} end)' <<<"$list")
    CNI_COMMAND=$command CNI_CONTAINERID=$id CNI_NETNS=$netns CNI_IFNAME=$ifname \
        CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=$namespace;K8S_POD_NAME=$name" \
        "$CNI_PATH/$type" <<<"$config"
}

# Lists of a folder; a file of one plugin becomes a list of one.
lists() {
    local file
    for file in "$conf_dir"/*.conflist "$conf_dir"/*.conf "$conf_dir"/*.json; do
        [ -f "$file" ] && printf '%s\n' "$file"
    done | LC_ALL=C sort | while read -r file; do
        jq -c 'if .plugins then . else {name, cniVersion, plugins: [.]} end | .cniVersion //= "0.2.0"' "$file"
    done
}

# Takes back what the state has, last first. Every step is tried; the first failure is told at the end.
detach() {
    local state=$1 status=0 network plugins
    for ((network = $(jq '.networks | length' <<<"$state") - 1; network >= 0; network--)); do
        local list result ifname index
        list=$(jq -c ".networks[$network].list" <<<"$state")
        result=$(jq -c ".networks[$network].result" <<<"$state")
        ifname="eth$network"
        plugins=$(jq '.plugins | length' <<<"$list")
        for ((index = plugins - 1; index >= 0; index--)); do
            plugin DEL "$list" "$index" "$ifname" "$result" >/dev/null || status=1
        done
    done
    return "$status"
}

attach() {
    local list plugins index result ifname answer network=0
    local state='{"networks": []}'
    state=$(jq -c --arg id "$id" --arg netns "$netns" --arg container "$container" '. + {id: $id, netns: $netns, container: $container}' <<<"$state")
    mkdir -p "$state_dir"
    while read -r list; do
        ifname="eth$network" result='{}'
        # Written before the first plugin runs: what is half made is taken back as well.
        state=$(jq -c --argjson list "$list" '.networks += [{list: $list, result: {}}]' <<<"$state")
        printf '%s\n' "$state" >"$state_file"
        plugins=$(jq '.plugins | length' <<<"$list")
        for ((index = 0; index < plugins; index++)); do
            if ! answer=$(plugin ADD "$list" "$index" "$ifname" "$result"); then
                detach "$state" || true
                rm -f "$state_file"
                [ -z "$container" ] || docker rm --force "$container" >/dev/null
                fail "error executing ADD: $(jq -r '[.msg, .details] | map(select(. != null)) | join("; ")' <<<"$answer" 2>/dev/null || echo "$answer")"
            fi
            [ -z "$answer" ] || result=$(jq -c . <<<"$answer")
        done
        state=$(jq -c --argjson result "$result" '.networks[-1].result = $result' <<<"$state")
        printf '%s\n' "$state" >"$state_file"
        [ "${DEBUG:-0}" = 0 ] || jq . <<<"$result"
        network=$((network + 1))
    done < <(lists)
    [ "$network" -gt 0 ] || fail "error executing ADD: no CNI configuration in $conf_dir"
    jq -r '[.networks[].result.ips[]? | (.address // .ip4.ip)] | join(" ")' <<<"$state"
}

container='' netns=''
case "${1:-}" in
--netns)
    [ $# -eq 4 ] || usage
    netns=$2 name=$3 namespace=$4
    ;;
--del)
    [ $# -eq 3 ] || usage
    name=$2 namespace=$3
    ;;
'' | -*) usage ;;
*)
    [ $# -eq 3 ] || usage
    name=$1 namespace=$2 image=$3
    ;;
esac
command -v jq >/dev/null || fail "jq is missing: apt-get install jq"
state_file="$state_dir/$namespace.$name"

if [ "${1:-}" = --del ]; then
    # Nothing is known of it: it is gone, as DEL wants it.
    [ -f "$state_file" ] || exit 0
    state=$(cat "$state_file")
    id=$(jq -r .id <<<"$state")
    netns=$(jq -r .netns <<<"$state")
    [ -e "$netns" ] || netns=''
    detach "$state" || fail "error executing DEL: it is kept and can be tried again"
    container=$(jq -r .container <<<"$state")
    [ -z "$container" ] || docker rm --force "$container" >/dev/null
    rm -f "$state_file"
    exit 0
fi

[ ! -e "$state_file" ] || fail "is there already: $0 --del $name $namespace takes it back"
if [ -z "$netns" ]; then
    container=$(docker run --detach --net=none "$image" /bin/sleep 10000000)
    netns="/proc/$(docker inspect --format '{{.State.Pid}}' "$container")/ns/net"
    id=$container
else
    [ -e "$netns" ] || fail "there is no network namespace at $netns"
    # The same name may be given again later: the namespace's number tells one from the other.
    id="$namespace.$name.$(stat --dereference --format %i "$netns")"
fi
attach
