//! containerd 1.6, as Debian has it, runs containers and pods on the plugins as they ship; of containerd 2 that is the lab's everyday business.
#![expect(clippy::unwrap_used, reason = "a test says what it expected by failing there")]

use std::path::Path;
use std::process::Command;

use azure_vnet_e2e::build::{Cache, PAUSE_IMAGE, PROBE_IMAGE, Tools, image_of_probe, pause_image, plugins, require_packages};
use serde_json::json;

const MACHINE: &str = include_str!("containerd/machine.sh");

#[test]
fn containerd_of_the_first_generation_runs_containers_with_the_originals_conflist() {
    require_packages().unwrap();
    let cache = Cache::open().unwrap();
    let image = image_of_probe(&cache).unwrap();
    for mode in MODES {
        let said = run(&cache, mode, include_str!("containerd/containers.sh"), &[("IMAGE", image.as_path())]);
        assert!(lines(&said, "command=ADD") >= 2 && lines(&said, "command=DEL") >= 1, "{mode}: {said}");
    }
}

#[test]
fn containerd_of_the_first_generation_runs_pods_with_the_originals_conflist() {
    require_packages().unwrap();
    let cache = Cache::open().unwrap();
    let tools = Tools::ensure(&cache).unwrap();
    let images = [pause_image(&cache).unwrap(), image_of_probe(&cache).unwrap()].map(|image| image.display().to_string()).join(" ");
    let given = [("CRI", tools.path("cri").unwrap()), ("IMAGES", Path::new(&images))];
    for mode in MODES {
        let said = run(&cache, mode, include_str!("containerd/pods.sh"), &given);
        let [added, deleted] = ["command=ADD", "command=DEL"].map(|command| lines(&said, command));
        assert!(added >= 2 && deleted >= added, "{mode}: {said}");
        assert_eq!(lines(&said, "leased to pod default/server "), 1, "the plugin is told which pod it is, {mode}: {said}");
        assert!(said.contains("links left: 0\nleases left: 0\n"), "{mode}: {said}");
    }
}

/// Between two pods of a node, tunnel mode needs a fabric.
const MODES: [&str; 2] = ["transparent", "bridge"];

/// Runs a script on a machine with containerd 1.6. Answers what it said.
fn run(cache: &Cache, mode: &str, script: &str, given: &[(&str, &Path)]) -> String {
    let tools = cache.unpacked(&["containerd"]).unwrap().join("usr/bin");
    let addresses: Vec<_> = (1..=8).map(|last| json!({ "Address": format!("10.240.1.{last}"), "IsPrimary": false })).collect();
    let subnets = json!([{ "Prefix": "10.240.0.0/16", "IPAddresses": addresses }]);
    let interfaces = json!({ "Interfaces": [{ "MacAddress": "020000000004", "IsPrimary": true, "IPSubnets": subnets }] });
    let ours = json!({
        "type": "azure-vnet", "mode": mode, "ipsToRouteViaHost": ["169.254.20.10"],
        "ipam": { "type": "azure-vnet-ipam", "environment": "mas" }
    });
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true });
    let conflist = json!({ "cniVersion": "0.3.0", "name": "azure", "plugins": [ours, portmap] });
    let mut shell = Command::new("unshare");
    shell.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &format!("{MACHINE}{script}")]);
    shell.env("TOOLS", &tools).env("PLUGINS", plugins(cache).unwrap()).env("NAME", PROBE_IMAGE).env("PAUSE", PAUSE_IMAGE);
    shell.env("CONFLIST", conflist.to_string()).env("INTERFACES", interfaces.to_string());
    let output = shell.envs(given.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{mode}: {said}");
    assert!(said.contains(" 1.6."), "{mode}: {said}");
    assert_eq!(lines(&said, "outcome=failed"), 0, "{mode}: {said}");
    said
}

fn lines(said: &str, what: &str) -> usize {
    said.lines().filter(|line| line.contains(what)).count()
}
