//! The CNI project's own `cnitool` drives the plugins as they ship, on a machine of their own with a file of addresses.
#![expect(clippy::unwrap_used, reason = "a test says what it expected by failing there")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use azure_vnet_e2e::build::{Cache, Tools, plugins, require_packages};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::{Value, json};

#[test]
fn cnitool_adds_checks_deletes_collects_and_asks_for_status() {
    require_packages().unwrap();
    let cache = Cache::open().unwrap();
    let (tools, plugins) = (Tools::ensure(&cache).unwrap(), plugins(&cache).unwrap());
    let cnitool = tools.path("cnitool").unwrap().to_owned();
    let test = std::thread::spawn(move || drive(&Tool { cnitool, plugins }));
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn the_plugins_that_ship_are_static() {
    require_packages().unwrap();
    let plugins = plugins(&Cache::open().unwrap()).unwrap();
    for name in ["azure-vnet", "azure-vnet-ipam"] {
        assert!(!needs_a_loader(&fs::read(plugins.join(name)).unwrap()), "{name}");
    }
    assert!(needs_a_loader(&fs::read("/proc/self/exe").unwrap()), "this test is no static executable");
}

/// Whether an executable (ELF of 64 bits, little-endian) names the program that loads it and its libraries.
fn needs_a_loader(executable: &[u8]) -> bool {
    const INTERPRETER: usize = 3;
    assert!(executable.starts_with(b"\x7fELF\x02\x01"));
    let number = |at: usize, bytes: usize| {
        let bytes = executable.iter().skip(at).take(bytes).rev();
        bytes.fold(0, |number, byte| (number << 8) | usize::from(*byte))
    };
    let (table, size, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    (0..count).any(|segment| number(table + segment * size, 4) == INTERPRETER)
}

fn drive(tool: &Tool) {
    leave();
    for mode in ["transparent", "bridge", "tunnel"] {
        configure(mode);
        tool.succeed("status", "a");
        let added = tool.add("a");
        tool.succeed("check", "a");
        assert_eq!(tool.add("a"), added, "{mode}: the same again");
        let other = tool.add("b");
        assert_ne!(address(&other), address(&added), "{mode}");
        ip(&["-netns", "b", "route", "delete", "default"]);
        let broken = tool.run("check", "b");
        assert!(!broken.status.success() && text(&broken).contains("default route"), "{mode}: {broken:?}");
        assert_eq!(leased(), 2, "{mode}");
        tool.succeed("del", "a");
        tool.succeed("del", "a");
        assert_eq!((leased(), links()), (1, 1), "{mode}");
        // Of the other the namespace goes without a DEL: the runtime does not list it, and the kernel shows it no more.
        ip(&["netns", "delete", "b"]);
        ip(&["netns", "add", "b"]);
        tool.succeed("gc", "a");
        assert_eq!((leased(), links()), (0, 0), "{mode}");
        tool.succeed("status", "a");
    }
    of_several_files_the_first_of_the_name_counts(tool);
    fs::remove_file(INTERFACES).unwrap();
    fs::remove_dir_all("/run/azure-vnet").unwrap();
    let refused = tool.run("status", "a");
    assert!(!refused.status.success() && text(&refused).contains(INTERFACES), "{refused:?}");
}

/// By the rule of libcni, which runtimes have in common: lists in lexical order.
fn of_several_files_the_first_of_the_name_counts(tool: &Tool) {
    let write = |file: &str, name: &str, plugin: &str| {
        let list = json!({ "cniVersion": "1.1.0", "name": name, "plugins": [{ "type": plugin }] });
        fs::write(Path::new("/etc/cni").join(file), list.to_string()).unwrap();
    };
    write("05-other.conflist", "other", "nowhere");
    write("10-azure.conflist.bak", "azure", "nowhere");
    write("20-azure.conflist", "azure", "nowhere");
    tool.add("a");
    tool.succeed("del", "a");
    write("10-azure-vnet.conflist", "azure", "earlier");
    let refused = tool.run("add", "a");
    assert!(!refused.status.success() && text(&refused).contains("earlier"), "a hyphen sorts before a dot: {refused:?}");
    for file in ["05-other.conflist", "10-azure.conflist.bak", "10-azure-vnet.conflist", "20-azure.conflist"] {
        fs::remove_file(Path::new("/etc/cni").join(file)).unwrap();
    }
}

const INTERFACES: &str = "/etc/kubernetes/interfaces.json";
const MAC: &str = "02:00:00:00:00:04";

struct Tool {
    cnitool: PathBuf,
    plugins: PathBuf,
}

impl Tool {
    fn run(&self, command: &str, netns: &str) -> Output {
        let mut tool = Command::new(&self.cnitool);
        tool.args([command, "azure", &format!("/run/netns/{netns}")]).env("NETCONFPATH", "/etc/cni").env("CNI_PATH", &self.plugins);
        tool.env("CNI_ARGS", format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={netns}")).output().unwrap()
    }

    fn succeed(&self, command: &str, netns: &str) -> Output {
        let output = self.run(command, netns);
        assert!(output.status.success(), "{command}: {output:?}");
        output
    }

    fn add(&self, netns: &str) -> Value {
        serde_json::from_slice(&self.succeed("add", netns).stdout).unwrap()
    }
}

/// Leaves the machine's network and folders for a machine that has four addresses for pods.
fn leave() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    for folder in ["/etc", "/run", "/var/lib", "/var/log"] {
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    }
    fs::create_dir_all("/etc/kubernetes").unwrap();
    let addresses: Vec<Value> = (5..9).map(|last| json!({ "Address": format!("10.240.0.{last}"), "IsPrimary": false })).collect();
    let subnets = json!([{ "Prefix": "10.240.0.0/16", "IPAddresses": addresses }]);
    let interfaces = json!({ "Interfaces": [{ "MacAddress": MAC.replace(':', ""), "IsPrimary": true, "IPSubnets": subnets }] });
    fs::write(INTERFACES, interfaces.to_string()).unwrap();
    ip(&["link", "add", "eth0", "address", MAC, "type", "veth", "peer", "name", "fabric"]);
    ip(&["link", "set", "fabric", "up"]);
    ip(&["link", "set", "eth0", "up"]);
    ip(&["address", "add", "10.240.0.4/16", "dev", "eth0"]);
    ip(&["route", "add", "default", "via", "10.240.0.1"]);
    ip(&["netns", "add", "a"]);
    ip(&["netns", "add", "b"]);
}

fn configure(mode: &str) {
    fs::create_dir_all("/etc/cni").unwrap();
    let plugin = json!({ "type": "azure-vnet", "mode": mode, "ipam": { "type": "azure-vnet-ipam", "environment": "fileIpam" } });
    let list = json!({ "cniVersion": "1.1.0", "name": "azure", "plugins": [plugin] });
    fs::write("/etc/cni/10-azure.conflist", list.to_string()).unwrap();
    // The addresses of the mode before need not rest.
    if Path::new("/run/azure-vnet").exists() {
        fs::remove_dir_all("/run/azure-vnet").unwrap();
    }
}

fn address(result: &Value) -> String {
    result.pointer("/ips/0/address").and_then(Value::as_str).unwrap().to_owned()
}

fn leased() -> usize {
    let records = fs::read_dir("/run/azure-vnet/lease").unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    records.filter(|record| record.starts_with("azure-vnet 1 leased ")).count()
}

fn links() -> usize {
    ip(&["-brief", "link"]).lines().filter(|line| line.starts_with("azv")).count()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}
