//! Several configurations in one folder: the script that does a runtime's part on a machine without one.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::json;

use crate::fabric::Fabric;
use crate::node::{PLUGIN, on_a_node, program};

#[test]
fn configurations_of_a_folder_are_applied_in_lexical_order_and_taken_back_in_reverse() {
    on_a_node(10, |node| {
        let _fabric = Fabric::like_azure(node);
        fs::create_dir("/run/conf").unwrap();
        let plugin =
            |mode: &str| json!({ "type": "azure-vnet", "mode": mode, "ipam": { "type": "azure-vnet-ipam", "environment": "pool" } });
        let list = |name: &str, mode: &str| json!({ "cniVersion": "1.0.0", "name": name, "plugins": [plugin(mode)] });
        let mut single = plugin("transparent");
        single["name"] = json!("single");
        // A hyphen sorts before a dot, and what is no configuration is passed over.
        for (file, content) in [
            ("20-last.conflist", list("last", "tunnel").to_string()),
            ("10-azure.conflist", list("third", "bridge").to_string()),
            ("10-azure-vnet.conflist", list("second", "transparent").to_string()),
            ("05-single.conf", single.to_string()),
            ("00-first.conflist.bak", "no configuration".to_owned()),
        ] {
            fs::write(Path::new("/run/conf").join(file), content).unwrap();
        }
        let pod = node.sandbox("pod", "web-0");
        let attached = script(&["--netns", pod.netns.to_str().unwrap(), "web-0", "default"]);
        assert!(attached.status.success(), "{attached:?}");
        let mut given: Vec<_> =
            node.leases().into_iter().map(|lease| (lease.attachment.if_name.to_string(), lease.network.to_string())).collect();
        given.sort();
        let expected = [("eth0", "single"), ("eth1", "second"), ("eth2", "third"), ("eth3", "last")];
        assert_eq!(given, expected.map(|(interface, network)| (interface.to_owned(), network.to_owned())));
        // What the folder says by then does not matter.
        fs::remove_dir_all("/run/conf").unwrap();
        let detached = script(&["--del", "web-0", "default"]);
        assert!(detached.status.success(), "{detached:?}");
        node.assert_nothing_left("after all were taken back");
        let log = fs::read_to_string("/var/log/azure-vnet.log").unwrap();
        let word = |line: &str, key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)).unwrap().to_owned();
        let order: Vec<_> = log.lines().map(|line| word(line, "command=") + " " + &word(line, "interface=")).collect();
        let expected = ["ADD eth0", "ADD eth1", "ADD eth2", "ADD eth3", "DEL eth3", "DEL eth2", "DEL eth1", "DEL eth0"];
        assert_eq!(order, expected);
    });
}

fn script(arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/docker-run.sh");
    let mut command = Command::new(script);
    command.args(arguments).env("CNI_CONF_DIR", "/run/conf").env("STATE_DIR", "/run/docker");
    command.env("CNI_PATH", program(PLUGIN).parent().unwrap()).output().unwrap()
}
