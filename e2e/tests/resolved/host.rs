//! A host in namespaces of its own: a bus, systemd-networkd, which configures eth0, systemd-resolved, and beyond eth0 a name server.

use std::{
    fs,
    io::Write as _,
    net::UdpSocket,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use azure_vnet_e2e::build::{Cache, plugins, require_packages};
use azure_vnet_plugin::{netlink::Netlink, unbridge};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

pub const NODE: &str = "10.240.0.4";
pub const MAC: &str = "02:00:00:00:00:04";
const SERVER: &str = "10.240.0.1";
/// What the name server says of every name.
const ANSWER: [u8; 4] = [10, 240, 7, 7];
const DEADLINE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(50);
/// How long one question may take: systemd-resolved waits for seconds for what was lost while the addresses moved, a new question does not.
const PATIENCE: &str = "3";
/// The services, and libraries that a machine may lack.
const PACKAGES: [&str; 10] = [
    "systemd-resolved",
    "systemd",
    "libsystemd-shared",
    "dbus-daemon",
    "libdbus-1-3",
    "libssl3",
    "libapparmor1",
    "libaudit1",
    "libcap-ng0",
    "libexpat1",
];
const BUS: &str = r#"<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>"#;
const USERS: &str = "root:x:0:0::/:/bin/sh\nsystemd-network:x:998:998::/:/bin/false\nsystemd-resolve:x:997:997::/:/bin/false\n";
const GROUPS: &str = "root:x:0:\nsystemd-network:x:998:\nsystemd-resolve:x:997:\n";
const CONFIGURED: &str = "/etc/systemd/network/eth0.network";
const NETWORK: &str = "[Match]\nName=eth0\n[Network]\nAddress=10.240.0.4/16\nGateway=10.240.0.1\nDNS=10.240.0.1\nDomains=cluster.example\n\
                       LinkLocalAddressing=no\nIPv6AcceptRA=no\nLLMNR=no\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Bus,
    Networkd,
    Resolved,
}

/// Runs a test on a thread of its own inside; what it started ends with it.
pub fn on_a_host(test: impl FnOnce(&mut Host) + Send + 'static) {
    require_packages().unwrap();
    let cache = Cache::open().unwrap();
    let (plugins, packages) = (plugins(&cache).unwrap(), cache.unpacked(&PACKAGES).unwrap());
    let inside = move || {
        leave();
        let mut host = Host { plugins, packages, children: Vec::new() };
        for service in [Service::Bus, Service::Networkd, Service::Resolved] {
            host.start(service);
        }
        test(&mut host);
    };
    if let Err(panic) = thread::spawn(inside).join() {
        std::panic::resume_unwind(panic);
    }
}

pub struct Host {
    plugins: PathBuf,
    packages: PathBuf,
    children: Vec<(Service, Child)>,
}

impl Host {
    fn start(&mut self, service: Service) {
        let (program, arguments): (&str, &[&str]) = match service {
            Service::Bus => ("usr/bin/dbus-daemon", &["--config-file=/run/bus.conf", "--nofork", "--nopidfile"]),
            Service::Networkd => ("lib/systemd/systemd-networkd", &[]),
            Service::Resolved => ("lib/systemd/systemd-resolved", &[]),
        };
        let log = fs::File::create(format!("/run/{service:?}.log")).unwrap();
        let mut command = self.command(self.packages.join(program));
        let child = command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.children.push((service, child));
        match service {
            Service::Bus => self.await_that("the bus listens", || PathBuf::from("/run/dbus/system_bus_socket").exists()),
            Service::Networkd => self.await_that("eth0 is configured", || self.shows("eth0", NODE)),
            Service::Resolved => {
                self.await_that("systemd-resolved knows eth0's servers", || self.try_ctl(&["status"]) && self.servers("eth0") == [SERVER]);
            }
        }
    }

    pub fn restart(&mut self, service: Service) {
        let at = self.children.iter().position(|(there, _)| *there == service).unwrap();
        let (_, mut child) = self.children.remove(at);
        kill(pid(&child), Signal::SIGTERM).unwrap();
        child.wait().unwrap();
        self.start(service);
    }

    /// Tells systemd-networkd to leave the uplink in its bridge, from its next start on.
    pub fn keep_uplink(&self) {
        fs::write(CONFIGURED, format!("{NETWORK}KeepMaster=yes\n")).unwrap();
    }

    /// Stops a service's process, which is there and answers nobody.
    pub fn stop(&self, service: Service) {
        self.signal(service, Signal::SIGSTOP);
    }

    pub fn go_on(&self, service: Service) {
        self.signal(service, Signal::SIGCONT);
    }

    fn signal(&self, service: Service, signal: Signal) {
        let (_, child) = self.children.iter().find(|(there, _)| *there == service).unwrap();
        kill(pid(child), signal).unwrap();
    }

    /// Runs the plugin for a pod.
    pub fn succeed(&self, command: &str, pod: &str, mode: &str) {
        let output = self.run(command, pod, mode);
        assert!(output.status.success(), "{command}: {}", text(&output));
    }

    /// Runs ADD after the uplink changed its bridge by hand, as a runtime does: one that answers "try again later" is asked again. For a second
    /// or two networkd sets the uplink up anew again and again, and the plugin does not fight with it.
    pub fn succeed_once_networkd_rests(&self, pod: &str, mode: &str) {
        self.await_that("networkd comes to rest", || {
            let output = self.run("ADD", pod, mode);
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            assert!(output.status.success() || answer.get("code").is_some_and(|code| code == 11), "ADD: {}", text(&output));
            output.status.success()
        });
    }

    fn run(&self, command: &str, pod: &str, mode: &str) -> Output {
        let ipam = json!({ "type": "azure-vnet-ipam", "environment": "fileIpam" });
        let conf = json!({ "cniVersion": "1.0.0", "name": "azure", "type": "azure-vnet", "mode": mode, "ipam": ipam });
        let mut plugin = self.command(self.plugins.join("azure-vnet"));
        plugin.env("CNI_COMMAND", command).env("CNI_CONTAINERID", pod).env("CNI_IFNAME", "eth0").env("CNI_PATH", &self.plugins);
        plugin.env("CNI_NETNS", format!("/run/netns/{pod}")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = plugin.spawn().unwrap();
        child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Makes the next try due, as time would.
    pub fn forget_the_last_try(&self) {
        let note = fs::File::open(format!("/run/azure-vnet/resolvers-{}", self.bridge())).unwrap();
        note.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    }

    pub fn undo_network(&self) {
        let undone = unbridge::undo(&mut Netlink::open().unwrap(), Some(&self.bridge().parse().unwrap())).unwrap();
        assert!(undone.stay.is_empty(), "{undone:?}");
    }

    /// The bridge that there is.
    pub fn bridge(&self) -> String {
        let links = ip(&["-brief", "link", "show", "type", "bridge"]);
        links.split_whitespace().next().unwrap_or_else(|| panic!("there is no bridge, but {}", ip(&["link"]))).to_owned()
    }

    /// A name that nobody asked for before is found by the host.
    pub fn expect_name(&self, when: &str) {
        let mut number = 0;
        self.await_that(&format!("a name is found {when}"), || {
            number += 1;
            let name = format!("n{number}-{}.cluster.example", when.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
            let question = ["resolvectl", "query", "--legend=no", &name];
            let output = self.command("/usr/bin/timeout".into()).arg(PATIENCE).args(question).output().unwrap();
            output.status.success() && text(&output).contains(&ANSWER.map(|byte| byte.to_string()).join("."))
        });
    }

    pub fn servers(&self, link: &str) -> Vec<String> {
        self.ctl("dns", link).split_whitespace().map(str::to_owned).collect()
    }

    /// What `resolvectl` says of a property of a link.
    pub fn ctl(&self, property: &str, link: &str) -> String {
        let said = text(&self.resolvectl(&[property, link]));
        said.split_once("):").unwrap_or_else(|| panic!("{property} {link}: {said}")).1.trim().to_owned()
    }

    pub fn try_ctl(&self, arguments: &[&str]) -> bool {
        self.resolvectl(arguments).status.success()
    }

    fn resolvectl(&self, arguments: &[&str]) -> Output {
        self.command("resolvectl".into()).args(arguments).output().unwrap()
    }

    /// A command that finds the unpacked programs and libraries.
    fn command(&self, program: PathBuf) -> Command {
        let folders = ["usr/lib", "lib"].map(|folder| self.packages.join(folder).join("x86_64-linux-gnu"));
        let [usr, root] = folders.map(|folder| folder.display().to_string());
        let program = if program.components().count() == 1 { self.packages.join("usr/bin").join(program) } else { program };
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", format!("{usr}/systemd:{usr}:{root}"));
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.packages.join("usr/bin").display()));
        command
    }

    /// Whether a link has an address.
    pub fn shows(&self, link: &str, address: &str) -> bool {
        ip(&["-brief", "address", "show", "dev", link]).contains(&format!(" {address}/"))
    }

    pub fn log(&self) -> String {
        fs::read_to_string("/var/log/azure-vnet.log").unwrap()
    }

    pub fn await_that(&self, what: &str, condition: impl FnMut() -> bool) {
        await_that(condition).unwrap_or_else(|()| {
            let logs = ["Bus", "Networkd", "Resolved"].map(|name| fs::read_to_string(format!("/run/{name}.log")).unwrap_or_default());
            panic!("{what}: not within {DEADLINE:?}\n{}\n{}\n{}", logs.join("\n"), text(&self.resolvectl(&["status"])), ip(&["address"]));
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for (_, child) in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Leaves the machine's network and folders for those of a host with eth0, which nobody has configured, and a network that answers names.
fn leave() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    for folder in ["/etc", "/run", "/var/lib", "/var/log"] {
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    }
    // What cannot be written is no machine's of udev's.
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::MS_RDONLY, None::<&str>).unwrap();
    for folder in ["/etc/kubernetes", "/etc/systemd/network", "/run/dbus", "/run/systemd/resolve", "/run/systemd/netif/links"] {
        fs::create_dir_all(folder).unwrap();
    }
    for (folder, user) in [("/run/systemd/resolve", 997), ("/run/systemd/netif", 998), ("/run/systemd/netif/links", 998)] {
        std::os::unix::fs::chown(folder, Some(user), Some(user)).unwrap();
    }
    let addresses: Vec<_> = (5..9).map(|last| json!({ "Address": format!("10.240.0.{last}"), "IsPrimary": false })).collect();
    let subnets = json!([{ "Prefix": "10.240.0.0/16", "IPAddresses": addresses }]);
    let interfaces = json!({ "Interfaces": [{ "MacAddress": MAC.replace(':', ""), "IsPrimary": true, "IPSubnets": subnets }] });
    for (path, content) in [
        ("/etc/kubernetes/interfaces.json", interfaces.to_string().as_str()),
        ("/etc/passwd", USERS),
        ("/etc/group", GROUPS),
        (CONFIGURED, NETWORK),
        ("/run/bus.conf", BUS),
    ] {
        fs::write(path, content).unwrap();
    }
    ip(&["link", "set", "lo", "up"]);
    for netns in ["network", "a", "b", "c"] {
        ip(&["netns", "add", netns]);
    }
    ip(&["link", "add", "eth0", "address", MAC, "type", "veth", "peer", "name", "far", "netns", "network"]);
    ip(&["-netns", "network", "link", "set", "far", "up"]);
    ip(&["-netns", "network", "address", "add", &format!("{SERVER}/16"), "dev", "far"]);
    let socket = thread::spawn(|| {
        setns(fs::File::open("/run/netns/network").unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        UdpSocket::bind((SERVER, 53)).unwrap()
    });
    let socket = socket.join().unwrap();
    thread::spawn(move || serve_names(&socket));
}

/// A name server: for every name the same address, and nothing of other kinds.
fn serve_names(socket: &UdpSocket) {
    let mut buffer = [0; 1500];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        if let Some(answer) = buffer.get(..length).and_then(answer) {
            let _ = socket.send_to(&answer, peer);
        }
    }
}

/// <https://www.rfc-editor.org/rfc/rfc1035#section-4>: the header, the question as it came, and one record.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let name = query.get(HEADER..)?.iter().position(|byte| *byte == 0)? + 1;
    let question = query.get(HEADER..HEADER + name + 4)?;
    let is_address = question.get(name..)? == [0, 1, 0, 1];
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    answer.extend(question);
    if is_address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(ANSWER);
    }
    Some(answer)
}

fn await_that(mut condition: impl FnMut() -> bool) -> Result<(), ()> {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        if Instant::now() > deadline {
            return Err(());
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap())
}

pub fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
