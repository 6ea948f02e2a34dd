//! Our address plugin under others, and others' under ours.

use std::{fs, net::Ipv4Addr, process::Command};

use serde_json::{Value, json};

use crate::node::{IPAM, PLUGIN, conf, finish, on_a_node, run};

#[test]
fn the_address_plugin_serves_any_other() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        let conf =
            json!({ "cniVersion": "1.0.0", "name": "lan", "type": "ipvlan", "ipam": { "type": "azure-vnet-ipam", "environment": "pool" } });
        let ipam = |command: &str| finish(node.start(IPAM, &pod, command), &conf);
        let added = ipam("ADD");
        let address = added.address();
        let expected = json!({ "cniVersion": "1.0.0", "ips": [{ "address": format!("{address}/16"), "gateway": "10.240.0.1" }],
                               "routes": [{ "dst": "0.0.0.0/0", "gw": "10.240.0.1" }], "dns": { "nameservers": ["168.63.129.16"] } });
        assert_eq!(added.json(), expected);
        assert_eq!(ipam("ADD").json(), expected);
        assert!(ipam("CHECK").ok);
        assert!(ipam("DEL").ok);
        assert!(ipam("DEL").ok);
        assert_eq!(ipam("CHECK").code(), 3);
        node.assert_nothing_left("after DEL");
    });
}

#[test]
fn another_address_plugin_is_run_as_the_specification_says() {
    on_a_node(1, |node| {
        let pod = node.sandbox("c1", "web-0");
        fs::create_dir_all("/run/bin").unwrap();
        let script = "#!/bin/sh\nread -r conf; echo \"$CNI_COMMAND $conf\" >> /run/bin/calls\n\
                      case $CNI_COMMAND in ADD) [ -e /run/bin/fail ] && { echo '{\"code\":42,\"msg\":\"address not found\"}'; exit 1; }\n\
                      echo '{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.88.0.5/24\",\"gateway\":\"10.88.0.1\"}]}';; esac\n";
        fs::write("/run/bin/other", script).unwrap();
        run("chmod", &["+x", "/run/bin/other"]);
        let mut conf = conf("1.0.0");
        conf["ipam"] = json!({ "type": "other", "private": { "field": 1 } });
        let with_path = |command: &str, conf: &Value| {
            let output = Command::new("env")
                .env_clear()
                .args([
                    format!("CNI_COMMAND={command}").as_str(),
                    "CNI_CONTAINERID=c1",
                    "CNI_NETNS=/run/netns/c1",
                    "CNI_IFNAME=eth0",
                    "CNI_PATH=/nowhere:/run/bin",
                    "CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0",
                    "PATH=/bin:/usr/bin",
                    PLUGIN,
                ])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            finish(output, conf)
        };
        let added = with_path("ADD", &conf);
        assert_eq!(added.address(), Ipv4Addr::new(10, 88, 0, 5));
        conf["prevResult"] = added.json();
        let check = with_path("CHECK", &conf);
        assert!(check.ok, "{check:?}");
        let deleted = with_path("DEL", &conf);
        assert!(deleted.ok, "{deleted:?}");
        assert_eq!((node.host_links(), pod.links()), (vec![], vec![]));
        let calls = fs::read_to_string("/run/bin/calls").unwrap();
        assert_eq!(calls.lines().map(|call| call.split(' ').next().unwrap()).collect::<Vec<_>>(), ["ADD", "CHECK", "DEL"]);
        assert!(calls.lines().all(|call| call.contains("\"private\":{\"field\":1}")), "{calls}");
        fs::write("/run/bin/fail", "").unwrap();
        assert_eq!(with_path("ADD", &conf).code(), 42);
    });
}
