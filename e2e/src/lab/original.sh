#!/bin/bash
# Stands in for the original azure-vnet plugins, in transparent mode: by what is documented of them, it asks the wireserver for addresses, wires
# pods, keeps their state in the same files and answers alike. Both plugins in one, with bash, iproute2 and jq; masks are those of a /16.
set -euo pipefail

network_state=/run/azure-vnet.json
address_state=/run/azure-vnet-ipam.json
host_mac=aa:aa:aa:aa:aa:aa
gateway=169.254.1.1

fail() {
    printf '{"cniVersion":"0.3.0","code":100,"msg":"%s"}\n' "$*"
    exit 1
}

argument() {
    tr ';' '\n' <<<"${CNI_ARGS:-}" | sed -n "s/^$1=//p"
}

interfaces() {
    exec 8<>/dev/tcp/168.63.129.16/80
    printf 'GET /machine/plugins?comp=nmagent&type=getinterfaceinfov1 HTTP/1.0\r\nHost: 168.63.129.16\r\n\r\n' >&8
    cat <&8
    exec 8>&-
}

# change FILE FILTER [ARGUMENTS OF JQ]: no reader sees half a file.
change() {
    local file=$1 filter=$2 new
    shift 2
    new=$(mktemp "$file.XXXXXX")
    { if [ -s "$file" ]; then cat "$file"; else echo '{}'; fi; } | jq "$@" "$filter" >"$new"
    mv "$new" "$file"
}

add() {
    local seen prefix first address inside host pod namespace mtu
    seen=$(interfaces)
    prefix=$(grep -o 'Prefix="[^"]*"' <<<"$seen" | head -n 1 | cut -d '"' -f 2)
    # The first host of the subnet.
    first=${prefix%.*}.1
    change "$address_state" '
        .IPAM.Version = "v1.6.0" | .IPAM.TimeStamp = $now
        | .IPAM.AddressSpaces.local |= (.Id = "local" | .Scope = 0)
        | .IPAM.AddressSpaces.local.Pools[$prefix] |= (
            .Id = $prefix | .IfName = $master | .Subnet = {IP: ($prefix | split("/")[0]), Mask: "//8AAA=="} | .Gateway = $first
            | .IsIPv6 = false | .Priority = 0 | .RefCount = 1
            | .Addresses = (($there | split("\n") | map(select(. != "") | {key: ., value: {ID: "", Addr: ., InUse: false}}) | from_entries) + (.Addresses // {})))
        | first(.IPAM.AddressSpaces.local.Pools[$prefix].Addresses[] | select((.InUse | not) and .ID == "")) |= (.InUse = true | .ID = $id)' \
        --arg now "$(date --utc +%FT%TZ)" --arg prefix "$prefix" --arg first "$first" --arg id "$CNI_CONTAINERID" --arg master eth0 \
        --arg there "$(grep -o '<IPAddress [^>]*IsPrimary="false"' <<<"$seen" | grep -o ' Address="[^"]*"' | cut -d '"' -f 2)"
    address=$(jq --raw-output --arg id "$CNI_CONTAINERID" 'first(.IPAM.AddressSpaces.local.Pools[].Addresses[] | select(.ID == $id) | .Addr) // ""' "$address_state")
    [ -n "$address" ] || fail "No available addresses"

    pod=$(argument K8S_POD_NAME) namespace=$(argument K8S_POD_NAMESPACE)
    host=azv$(printf '%s' "$namespace.$pod" | sha1sum | cut -c 1-11)
    inside=${host}2
    mtu=$(cat /sys/class/net/eth0/mtu)
    ip link del "$host" 2>/dev/null || true
    ip link add "$host" address "$host_mac" mtu "$mtu" type veth peer name "$inside" mtu "$mtu"
    ip link set "$host" up
    ip route add "$address/32" dev "$host"
    echo 1 >"/proc/sys/net/ipv4/conf/$host/proxy_arp"
    ip link set "$inside" netns "$CNI_NETNS"
    within() { nsenter --net="$CNI_NETNS" ip "$@"; }
    within link set "$inside" name "$CNI_IFNAME"
    within link set "$CNI_IFNAME" up
    within address add "$address/${prefix#*/}" dev "$CNI_IFNAME"
    within route del "$prefix" dev "$CNI_IFNAME"
    within route add "$gateway/32" dev "$CNI_IFNAME" scope link
    within route add default via "$gateway" dev "$CNI_IFNAME"
    within neighbour replace "$gateway" lladdr "$host_mac" dev "$CNI_IFNAME" nud probe

    change "$network_state" '
        .Network.Version = "v1.6.0" | .Network.TimeStamp = $now | .Network.CnsClient = null
        | .Network.ExternalInterfaces.eth0 |= (.Name = "eth0" | .Subnets = [$prefix] | .BridgeName = "" | .IPv4Gateway = "0.0.0.0" | .IPv6Gateway = "::")
        | .Network.ExternalInterfaces.eth0.Networks.azure |= (
            .Id = "azure" | .Mode = "transparent" | .VlanId = 0
            | .Subnets = [{Family: 2, Prefix: {IP: ($prefix | split("/")[0]), Mask: "//8AAA=="}, Gateway: $first, PrimaryIP: ""}]
            | .Endpoints[$endpoint] = {
                Id: $endpoint, SandboxKey: "", IfName: $ifname, HostIfName: $host, LocalIP: "",
                IPAddresses: [{IP: $address, Mask: "//8AAA=="}], Gateways: ["0.0.0.0"], DNS: {Suffix: "", Servers: ["168.63.129.16"], Options: null},
                VlanID: 0, EnableSnatOnHost: false, EnableInfraVnet: false, EnableMultitenancy: false, NetworkContainerID: "",
                NetworkNameSpace: $netns, ContainerID: $id, PODName: $pod, PODNameSpace: $namespace, SecondaryInterfaces: {}, NICType: "InfraNIC"})' \
        --arg now "$(date --utc +%FT%TZ)" --arg prefix "$prefix" --arg first "$first" --arg endpoint "${CNI_CONTAINERID:0:8}-$CNI_IFNAME" \
        --arg ifname "$CNI_IFNAME" --arg host "$host" --arg address "$address" --arg netns "$CNI_NETNS" --arg id "$CNI_CONTAINERID" \
        --arg pod "$pod" --arg namespace "$namespace"
    printf '{"cniVersion":"0.3.0","interfaces":[{"name":"%s"}],"ips":[{"version":"4","address":"%s/%s","gateway":"%s"}],' \
        "$CNI_IFNAME" "$address" "${prefix#*/}" "$first"
    printf '"routes":[{"dst":"0.0.0.0/0","gw":"%s"}],"dns":{"nameservers":["168.63.129.16"]}}\n' "$first"
}

# The host's link goes with the pod's namespace.
del() {
    local address
    for address in $(jq --raw-output --arg id "$CNI_CONTAINERID" \
        '.Network.ExternalInterfaces[]?.Networks[]?.Endpoints[]? | select(.ContainerID == $id) | .IPAddresses[].IP' "$network_state" 2>/dev/null); do
        ip route del "$address/32" 2>/dev/null || true
    done
    change "$network_state" 'del(.Network.ExternalInterfaces[]?.Networks[]?.Endpoints[]? | select(.ContainerID == $id))' --arg id "$CNI_CONTAINERID"
    change "$address_state" '(.IPAM.AddressSpaces[]?.Pools[]?.Addresses[]? | select(.ID == $id)) |= (.InUse = false | .ID = "")' \
        --arg id "$CNI_CONTAINERID"
}

if [ "${1:-}" = --version ]; then
    echo "Azure CNI Version v1.6.0"
    exit
fi
if [ "${CNI_COMMAND:-VERSION}" = VERSION ]; then
    echo '{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0"]}'
    exit
fi
cat >/dev/null
mkdir -p /run/azure-vnet
exec 9>/run/azure-vnet/azure-vnet.lock
flock 9
case $CNI_COMMAND in
ADD) add ;;
DEL) del ;;
esac
