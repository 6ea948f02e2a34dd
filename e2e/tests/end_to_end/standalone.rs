//! A machine without Kubernetes, in network and mount namespaces of its own, beside the emulated wireserver and IMDS: `standalone` keeps it, and
//! the scripts attach namespaces to the VNET and take them back.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what it expected by failing there")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{Running, names, run};
use azure_vnet_e2e::azure::{Command as AzureCommand, Local, NoFabric, Seed, Settings};
use azure_vnet_e2e::build::{Cache, Operator, Product, checkout, product, require_packages};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::Value;

/// How long any awaited condition may take.
const DEADLINE: Duration = Duration::from_mins(1);
const MAC: &str = "00:0d:3a:00:00:03";
/// What the script asks of docker; a container is a process in a network namespace of its own, by a file with its number. It ends by itself at last.
const DOCKER: &str = r#"#!/bin/bash
set -euo pipefail
case "$*" in
"run --detach --net=none image /bin/sleep 10000000")
    unshare --net timeout 300 sleep 10000000 >/dev/null 2>&1 </dev/null &
    id=$(sha256sum <<<"$!" | cut -c 1-64)
    until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do :; done
    echo $! >"CONTAINERS/$id"
    echo "$id"
    ;;
"inspect --format {{.State.Pid}} "*) cat "CONTAINERS/$4" ;;
"rm --force "*) kill "$(cat "CONTAINERS/$3")" && rm "CONTAINERS/$3" && echo "$3" ;;
*) exit 1 ;;
esac
"#;

#[test]
fn st5_standalone_keeps_the_pool_and_a_namespace_gets_an_address_and_gives_it_back() {
    require_packages().unwrap();
    let product = product(&Cache::open().unwrap(), Operator::Quick).unwrap();
    let test = std::thread::spawn(move || {
        let machine = Machine::new(product);
        for config in ["first", "second"] {
            machine.foreign_add(config);
        }
        let standalone = machine.standalone();
        machine.wait("the CNI configuration", || machine.path("conf/10-azure-vnet.conflist").exists());
        machine.wait("both addresses", || machine.status()["addresses"][4] == 2);
        assert_eq!(machine.status()["sealedBy"], "agent", "one writer of the pool: what plugins learn is not asked for");

        let given = machine.attach("a");
        assert_eq!(given.len(), 1, "{given:?}");
        let inside = run("ip", &["netns", "exec", "a", "ip", "-4", "-brief", "address", "show", "eth0"]);
        assert!(inside.contains(&given[0]), "{inside} lacks {given:?}");
        let address = given[0].split('/').next().unwrap();
        run("ip", &["netns", "exec", "a", "busybox", "ping", "-c", "1", "-W", "5", "10.240.0.6"]);
        let leases = machine.node(&["leases"]);
        assert_eq!((leases[0]["address"].as_str(), leases[0]["pod"].as_str()), (Some(address), Some("test/a")));
        assert!(machine.fsck(), "store and kernel agree");

        // Whoever is full says so, and leaves nothing.
        machine.attach("b");
        let full = machine.try_attach("c");
        let said = String::from_utf8_lossy(&full.stderr).into_owned();
        assert!(!full.status.success() && said.starts_with("c : error executing ADD: "), "{said}");
        assert!(!run("ip", &["netns", "exec", "c", "ip", "-brief", "link"]).contains("eth0"));
        // More addresses on the NIC reach containers without anybody's doing.
        machine.foreign_add("third");
        machine.wait("a third address", || machine.status()["addresses"][0] == 3);
        machine.attach("c");

        machine.a_container_that_gets_no_address_does_not_stay();
        for name in ["a", "b", "c"] {
            machine.detach(name);
            machine.detach(name);
        }
        assert_eq!(machine.status()["addresses"][1], 0);
        assert!(!run("ip", &["-brief", "link"]).contains("azv"));
        machine.a_container_has_an_address_from_its_start_to_its_end();
        drop(standalone);
        machine.a_lease_is_made_again_from_a_report();
        machine.is_as_it_was_after_a_removal();
    });
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

struct Machine {
    root: tempfile::TempDir,
    product: Product,
    runtime: tokio::runtime::Runtime,
    local: Local,
    services: [String; 2],
}

impl Machine {
    /// Leaves the machine's namespaces. The threads of the emulator are made here, and so live in the same.
    fn new(product: Product) -> Self {
        leave();
        let root = tempfile::tempdir().unwrap();
        for folder in ["bin", "conf", "log", "state", "docker", "stand-in", "containers", "sys/ipv4/conf/all", "sys/ipv4/conf/eth0"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for file in ["sys/ipv4/ip_forward", "sys/ipv4/conf/all/rp_filter", "sys/ipv4/conf/eth0/rp_filter"] {
            fs::write(root.path().join(file), "0\n").unwrap();
        }
        let docker = root.path().join("stand-in/docker");
        fs::write(&docker, DOCKER.replace("CONTAINERS", &root.path().join("containers").display().to_string())).unwrap();
        fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["portmap", "loopback"] {
            fs::copy(format!("/usr/lib/cni/{name}"), root.path().join("bin").join(name)).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (local, services) = runtime.block_on(async {
            let local = Local::start(&Seed::lab(), Settings::instant(), Arc::new(NoFabric)).await.unwrap();
            let services = [local.imds("n3").await.unwrap(), local.wireserver("n3").await.unwrap()];
            (local, services)
        });
        Self { root, product, runtime, local, services }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// What `az network nic ip-config create` does.
    fn foreign_add(&self, config: &str) {
        let _running = self.runtime.enter();
        self.local.azure.command(AzureCommand::ForeignAdd { node: "n3".into(), config: config.into() }).unwrap();
    }

    fn standalone(&self) -> Running {
        // The product's folder also has the operator, which is no plugin.
        let plugins = self.path("plugins");
        fs::create_dir(&plugins).unwrap();
        for name in ["azure-vnet", "azure-vnet-ipam"] {
            fs::copy(self.product.bin.join(name), plugins.join(name)).unwrap();
        }
        let (from, to) = (plugins.display(), self.path("bin"));
        let config = format!("vnetCIDRs: [10.240.0.0/16]\ncoolDown: 10s\nplugins: {{from: {from}, to: {}}}\n", to.display());
        fs::write(self.path("standalone.yaml"), config).unwrap();
        Running(self.command().stdout(Stdio::null()).spawn().unwrap())
    }

    /// With what the unit leaves of a service's rights.
    fn command(&self) -> Command {
        let [imds, wireserver] = &self.services;
        let unit = fs::read_to_string(checkout().join("scripts/azure-vnet.service")).unwrap();
        let set = |field: &str| unit.lines().find_map(|line| line.strip_prefix(field)).unwrap().to_owned();
        let rights = set("CapabilityBoundingSet=").to_lowercase().replace("cap_", "+").replace(' ', ",");
        assert_eq!((set("NoNewPrivileges=").as_str(), set("ExecStart=").split(' ').nth(1).unwrap()), ("yes", "standalone"));
        let mut command = Command::new("setpriv");
        command.args(["--no-new-privs", "--inh-caps=-all", "--bounding-set", &format!("-all,{rights}")]);
        command.arg(self.product.bin.join("azure-vnet-operator")).arg("standalone").arg("--config").arg(self.path("standalone.yaml"));
        command.args(["--imds-endpoint", imds, "--wireserver-endpoint", wireserver, "--metrics-bind", "127.0.0.1:0"]);
        for (flag, name) in [("--proc-sys-net", "sys"), ("--state-dir", "state"), ("--cni-conf-dir", "conf"), ("--log-dir", "log")] {
            command.arg(flag).arg(self.path(name));
        }
        command
    }

    fn node(&self, arguments: &[&str]) -> Value {
        let output = self.ask(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.product.bin.join("azure-vnet-operator"));
        command.arg("node").args(arguments).args(["--output", "json"]);
        command.arg("--state-dir").arg(self.path("state")).arg("--cni-conf-dir").arg(self.path("conf"));
        command.output().unwrap()
    }

    fn status(&self) -> Value {
        self.node(&["status"])
    }

    fn fsck(&self) -> bool {
        self.ask(&["fsck"]).status.success()
    }

    /// The script for an existing namespace.
    fn script(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(checkout().join("scripts/docker-run.sh"));
        command
            .args(arguments)
            .env("CNI_CONF_DIR", self.path("conf"))
            .env("CNI_PATH", self.path("bin"))
            .env("STATE_DIR", self.path("docker"))
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.path("stand-in").display()));
        command.output().unwrap()
    }

    /// The containers that there are: processes in network namespaces of their own.
    fn containers(&self) -> Vec<String> {
        names(&self.path("containers"))
    }

    fn a_container_that_gets_no_address_does_not_stay(&self) {
        let refused = self.script(&["late", "test", "image"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.starts_with("late : error executing ADD: "), "{said}");
        assert_eq!(self.containers(), Vec::<String>::new());
    }

    fn a_container_has_an_address_from_its_start_to_its_end(&self) {
        self.wait("an address that has rested", || self.status()["addresses"][4] != 0);
        let given = self.script(&["web", "test", "image"]);
        assert!(given.status.success(), "{}", String::from_utf8_lossy(&given.stderr));
        let containers = self.containers();
        assert_eq!(containers.len(), 1, "{containers:?}");
        let pid = fs::read_to_string(self.path("containers").join(&containers[0])).unwrap();
        let inside = run("nsenter", &["-t", pid.trim(), "--net", "ip", "-4", "-brief", "address", "show", "eth0"]);
        assert!(inside.contains(String::from_utf8(given.stdout).unwrap().trim()), "{inside}");
        let leases = self.node(&["leases"]);
        let held = leases.as_array().unwrap().iter().find(|lease| lease["state"] == "leased").unwrap();
        assert_eq!(held["pod"].as_str(), Some("test/web"), "{leases}");
        self.detach("web");
        assert_eq!((self.containers(), self.status()["addresses"][1].as_u64()), (vec![], Some(0)));
    }

    fn try_attach(&self, name: &str) -> Output {
        if !Path::new("/run/netns").join(name).exists() {
            run("ip", &["netns", "add", name]);
        }
        self.script(&["--netns", &format!("/run/netns/{name}"), name, "test"])
    }

    fn attach(&self, name: &str) -> Vec<String> {
        let output = self.try_attach(name);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
    }

    fn detach(&self, name: &str) {
        let output = self.script(&["--del", name, "test"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(
                begun.elapsed() < DEADLINE,
                "{what} did not come within {DEADLINE:?}: {}",
                String::from_utf8_lossy(&self.ask(&["status"]).stdout)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Refused while a container has an address; then nothing of ours is left.
    fn is_as_it_was_after_a_removal(&self) {
        self.wait("an address that has rested", || self.status()["addresses"][4] != 0);
        self.attach("e");
        let refused = self.command().arg("--remove").output().unwrap();
        assert!(!refused.status.success() && self.path("conf/10-azure-vnet.conflist").exists(), "a container has an address");
        assert_eq!(self.status()["sealedBy"], "agent");
        self.detach("e");
        let done = self.command().arg("--remove").output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!((names(&self.path("conf")), names(&self.path("bin"))), (vec![], vec!["loopback".to_owned(), "portmap".into()]));
        assert!(!Path::new("/run/azure-vnet").exists() && !self.path("state").exists());
        let rules = run("iptables-nft-save", &[]) + &run("ip", &["route"]);
        assert!(!rules.contains("AZURE-VNET") && !rules.contains("unreachable"), "{rules}");
        assert_eq!(fs::read_to_string(self.path("sys/ipv4/ip_forward")).unwrap().trim(), "0");
    }

    /// With nobody at work, a lost lease is found, and made again only if a report has it.
    fn a_lease_is_made_again_from_a_report(&self) {
        self.wait("an address that has rested", || self.status()["addresses"][4] != 0);
        self.attach("d");
        let leases = self.node(&["leases"]);
        let held = leases.as_array().unwrap().iter().find(|lease| lease["state"] == "leased").unwrap();
        let path = Path::new("/run/azure-vnet/lease").join(held["address"].as_str().unwrap());
        fs::remove_file(&path).unwrap();
        let found = self.ask(&["fsck"]);
        assert!(!found.status.success());
        let report = self.path("report.json");
        fs::write(&report, "{\"bootID\": \"another\", \"records\": 0, \"links\": 0, \"findings\": []}").unwrap();
        self.node(&["fsck", "--repair", report.to_str().unwrap()]);
        assert!(!path.exists(), "nothing is mended that no report has");
        fs::write(&report, &found.stdout).unwrap();
        let mended = self.node(&["fsck", "--repair", report.to_str().unwrap()]);
        assert_eq!((mended["leases"].as_array().unwrap().len(), path.exists()), (1, true), "{mended}");
        assert!(self.fsck());
        self.detach("d");
    }
}

fn leave() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    for folder in ["/run", "/var/log"] {
        mount(Some("none"), folder, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    }
    fs::create_dir("/run/netns").unwrap();
    run("ip", &["link", "set", "lo", "up"]);
    run("ip", &["link", "add", "eth0", "address", MAC, "type", "veth", "peer", "name", "fabric"]);
    run("ip", &["link", "set", "fabric", "up"]);
    run("ip", &["address", "add", "10.240.0.6/16", "dev", "eth0"]);
    run("ip", &["link", "set", "eth0", "up"]);
}
