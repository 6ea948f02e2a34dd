//! The rules for frames that the original plugins made, in the kernel's own chains: known again by their form in what `ebtables` lists, of
//! either back end.

/// A form: its chain, and its words, of which `*` is any. Not those of IPv6: a pod that has both families goes on with them.
const FORMS: [(&str, &str); 5] = [
    ("PREROUTING", "-p ARP --arp-op Request --arp-ip-dst * -j arpreply --arpreply-mac *"),
    ("PREROUTING", "-p ARP -i * --arp-op Reply -j dnat --to-dst ff:ff:ff:ff:ff:ff --dnat-target ACCEPT"),
    ("PREROUTING", "-i * -j dnat --to-dst 12:34:56:78:9a:bc --dnat-target ACCEPT"),
    ("PREROUTING", "-p IPv4 -i * --ip-dst * -j dnat --to-dst * --dnat-target ACCEPT"),
    ("POSTROUTING", "-s Unicast -o * -j snat --to-src * --snat-arp --snat-target ACCEPT"),
];
/// What a listing leaves out, being the default, or has.
const DEFAULTS: [&str; 2] = ["--arpreply-target", "DROP"];

/// The rules of the original in a listing of the table `nat`: chain first, then the rule's words, as `ebtables -D` takes them.
#[must_use]
pub fn rules(listing: &str) -> Vec<Vec<&str>> {
    let mut chain = "";
    let mut found = Vec::new();
    for line in listing.lines() {
        if let Some(header) = line.strip_prefix("Bridge chain: ") {
            chain = header.split(',').next().unwrap_or_default();
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let rule = words.strip_suffix(&DEFAULTS).unwrap_or(&words);
        if FORMS.iter().any(|(of, form)| *of == chain && is_of(form, rule)) {
            found.push([chain].into_iter().chain(words).collect());
        }
    }
    found
}

fn is_of(form: &str, rule: &[&str]) -> bool {
    let form: Vec<&str> = form.split(' ').collect();
    form.len() == rule.len() && form.iter().zip(rule).all(|(wanted, word)| *wanted == "*" || wanted == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_originals_rules_are_known_by_their_form_and_others_are_left() {
        let listing = "Bridge table: nat\n\nBridge chain: PREROUTING, entries: 9, policy: ACCEPT\n-j AZURE-VNET \n\
            -p ARP --arp-op Request --arp-ip-dst 10.240.0.4 -j arpreply --arpreply-mac 0:d:3a:6e:8:25\n\
            -p ARP --arp-op Request --arp-ip-dst 10.240.1.2 -j arpreply --arpreply-mac 12:34:56:78:9a:bc --arpreply-target DROP\n\
            -p ARP -i eth0 --arp-op Reply -j dnat --to-dst ff:ff:ff:ff:ff:ff --dnat-target ACCEPT \n\
            -i az+ -j dnat --to-dst 12:34:56:78:9a:bc --dnat-target ACCEPT \n\
            -p IPv4 -i eth0 --ip-dst 10.240.1.2 -j dnat --to-dst 02:00:00:00:01:02 --dnat-target ACCEPT \n\
            -p IPv6 -i eth0 --ip6-dst fd00::2 -j dnat --to-dst 02:00:00:00:01:02 --dnat-target ACCEPT \n\
            -p IPv4 -i eth0 --ip-dst 10.240.1.2 --ip-proto tcp -j dnat --to-dst 02:00:00:00:01:02 --dnat-target ACCEPT \n\
            -i az+ -j dnat --to-dst 02:00:00:00:01:02 --dnat-target ACCEPT \n-j DROP \n\n\
            Bridge chain: POSTROUTING, entries: 1, policy: ACCEPT\n\
            -s Unicast -o eth0 -j snat --to-src 02:00:00:00:00:04 --snat-arp --snat-target ACCEPT \n\n\
            Bridge chain: AZURE-VNET-PODS, entries: 1, policy: RETURN\n\
            -p IPv4 -i eth0 --ip-dst 10.240.1.9 -j dnat --to-dst 02:00:00:00:01:09 --dnat-target ACCEPT \n";
        let found: Vec<String> = rules(listing).iter().map(|words| words.join(" ")).collect();
        assert_eq!(
            found,
            [
                "PREROUTING -p ARP --arp-op Request --arp-ip-dst 10.240.0.4 -j arpreply --arpreply-mac 0:d:3a:6e:8:25",
                "PREROUTING -p ARP --arp-op Request --arp-ip-dst 10.240.1.2 -j arpreply --arpreply-mac 12:34:56:78:9a:bc \
                 --arpreply-target DROP",
                "PREROUTING -p ARP -i eth0 --arp-op Reply -j dnat --to-dst ff:ff:ff:ff:ff:ff --dnat-target ACCEPT",
                "PREROUTING -i az+ -j dnat --to-dst 12:34:56:78:9a:bc --dnat-target ACCEPT",
                "PREROUTING -p IPv4 -i eth0 --ip-dst 10.240.1.2 -j dnat --to-dst 02:00:00:00:01:02 --dnat-target ACCEPT",
                "POSTROUTING -s Unicast -o eth0 -j snat --to-src 02:00:00:00:00:04 --snat-arp --snat-target ACCEPT",
            ]
        );
        assert_eq!(rules("").len(), 0);
    }
}
