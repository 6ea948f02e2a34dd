//! containerd 1.6, as Debian has it, runs containers on the plugins as they ship; of containerd 2 that is the lab's everyday business.

use std::process::Command;

use azure_vnet_e2e::build::{Cache, PROBE_IMAGE, image_of_probe, plugins, require_packages};
use serde_json::json;

#[test]
fn containerd_of_the_first_generation_runs_containers_with_the_originals_conflist() {
    require_packages().unwrap();
    let cache = Cache::open().unwrap();
    let tools = cache.unpacked(&["containerd"]).unwrap().join("usr/bin");
    let (plugins, image) = (plugins(&cache).unwrap(), image_of_probe(&cache).unwrap());
    let addresses: Vec<_> = (1..=8).map(|last| json!({ "Address": format!("10.240.1.{last}"), "IsPrimary": false })).collect();
    let subnets = json!([{ "Prefix": "10.240.0.0/16", "IPAddresses": addresses }]);
    let interfaces = json!({ "Interfaces": [{ "MacAddress": "020000000004", "IsPrimary": true, "IPSubnets": subnets }] });
    // Between two pods of a node, tunnel mode needs a fabric.
    for mode in ["transparent", "bridge"] {
        let ours = json!({
            "type": "azure-vnet", "mode": mode, "ipsToRouteViaHost": ["169.254.20.10"],
            "ipam": { "type": "azure-vnet-ipam", "environment": "mas" }
        });
        let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true });
        let conflist = json!({ "cniVersion": "0.3.0", "name": "azure", "plugins": [ours, portmap] });
        let mut shell = Command::new("unshare");
        shell.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", include_str!("containerd.sh")]);
        shell.env("TOOLS", &tools).env("PLUGINS", &plugins).env("IMAGE", &image).env("NAME", PROBE_IMAGE);
        let output = shell.env("CONFLIST", conflist.to_string()).env("INTERFACES", interfaces.to_string()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{mode}: {said}");
        assert!(said.contains(" 1.6."), "{mode}: {said}");
        let lines = |what: &str| said.lines().filter(|line| line.contains(what)).count();
        assert!(lines("command=ADD") >= 2 && lines("command=DEL") >= 1, "{mode}: {said}");
        assert_eq!(lines("outcome=failed"), 0, "{mode}: {said}");
    }
}
