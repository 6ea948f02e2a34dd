//! A node for tests: its own network and mount namespaces, an uplink to a fabric, a sealed store with a pool, pods' namespaces,
//! and the real plugins run as a runtime runs them. Nothing of the machine's own network or folders is touched.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use azure_vnet_plugin::{
    frames::Frames,
    netlink::{Change, Family, Link, LinkBy, MAIN_TABLE, Mac, Netlink, Peer, Route, Veth},
    netns::Netns,
    store::{Adoption, Keeper, KeeperError, Store},
};
use azure_vnet_plugin_core::{
    attachment::Mode,
    boot::BootId,
    lease::{Entry, Lease},
    pool::{ContentHash, PoolFacts, SealOwner, SlotAddress},
    wiring::{HOST_LINK_PREFIX, UNREACHABLE_METRIC},
};
use ipnet::Ipv4Net;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use serde_json::{Value, json};

pub const PLUGIN: &str = env!("CARGO_BIN_EXE_azure-vnet");
pub const IPAM: &str = env!("CARGO_BIN_EXE_azure-vnet-ipam");
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 4);
pub const FABRIC: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 1);
pub const RUN: &str = "/run/azure-vnet";
/// How long any awaited condition may take.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The plugin to be run: that of the folder `$AZURE_VNET_PLUGINS`, where what ships is to be tried, else the one that was built with the test.
pub fn program(built: &str) -> PathBuf {
    let folder = std::env::var_os("AZURE_VNET_PLUGINS");
    folder.map_or_else(|| built.into(), |folder| Path::new(&folder).join(Path::new(built).file_name().unwrap()))
}

/// The `n`th address of the test's pool.
pub fn pool_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 240, 1, n)
}

/// A node with a pool of this many addresses. The test runs on a thread of its own inside.
pub fn on_a_node(pool: u8, test: impl FnOnce(&Node) + Send + 'static) {
    let inside = move || {
        let node = Node::new();
        node.adopt(&(1..=pool).map(pool_address).collect::<Vec<_>>(), 1, Duration::from_secs(30));
        test(&node);
    };
    if let Err(panic) = thread::spawn(inside).join() {
        std::panic::resume_unwind(panic);
    }
}

/// A node that no agent has been on.
pub fn on_a_bare_node(test: impl FnOnce(&Node) + Send + 'static) {
    if let Err(panic) = thread::spawn(move || test(&Node::new())).join() {
        std::panic::resume_unwind(panic);
    }
}

pub struct Node {
    pub fabric: PathBuf,
}

/// A container as a runtime sees it.
#[derive(Clone, Debug)]
pub struct Sandbox {
    pub container: String,
    pub pod: String,
    pub netns: PathBuf,
}

/// How a plugin ended.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    pub ok: bool,
    pub out: String,
    #[expect(dead_code, reason = "shown where a test fails")]
    pub stderr: String,
}

impl Ended {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn address(&self) -> Ipv4Addr {
        assert!(self.ok, "{self:?}");
        let json = self.json();
        let text = json["ips"][0]["address"].as_str().unwrap_or_else(|| panic!("{json}"));
        text.parse::<Ipv4Net>().unwrap().addr()
    }

    pub fn code(&self) -> u64 {
        assert!(!self.ok, "{self:?}");
        self.json()["code"].as_u64().unwrap()
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { ok: output.status.success(), out: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Node {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("these tests make namespaces: run them as root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        for folder in ["/run", "/var/log", "/var/lib"] {
            mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        }
        fs::create_dir_all("/run/netns").unwrap();
        let node = Self { fabric: make_netns("fabric") };
        node.connect();
        node
    }

    /// eth0 of the node, and its far end in the fabric, which answers for the whole VNET.
    fn connect(&self) {
        let mut host = Netlink::open().unwrap();
        let fabric = Netns::open(self.fabric.to_str().unwrap()).unwrap();
        let peer = Peer { name: "n1", mac: Mac([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]), netns: fabric.as_fd() };
        host.change(Change::CreateVeth(Veth { name: "eth0", mac: Mac([2, 0, 0, 0, 0, 4]), mtu: 1500, group: 0, peer })).unwrap();
        let eth0 = host.link(LinkBy::Name("eth0")).unwrap().unwrap();
        host.change(Change::SetUp(eth0.index)).unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["address", "add", &format!("{NODE}/16"), "dev", "eth0"]);
        let mut there = fabric.netlink().unwrap();
        let far = there.link(LinkBy::Name("n1")).unwrap().unwrap();
        assert_eq!(far.peer, Some(eth0.index));
        there.change(Change::SetUp(far.index)).unwrap();
        inside(&self.fabric, move || {
            run("ip", &["link", "set", "lo", "up"]);
            run("ip", &["address", "add", &format!("{FABRIC}/32"), "dev", "n1"]);
            run("ip", &["route", "add", "10.240.0.0/16", "dev", "n1"]);
        });
        run("ip", &["route", "add", "default", "via", &FABRIC.to_string()]);
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        // The fabric delivers pods' packets by the node's hardware address.
        fs::write("/proc/sys/net/ipv4/conf/eth0/proxy_arp", "1").unwrap();
        fs::write("/proc/sys/net/ipv4/neigh/eth0/proxy_delay", "0").unwrap();
    }

    pub fn keeper(&self) -> Keeper {
        // Of two keepers the second is refused, also while a child of another test, forked and not yet run, has the first one's lock.
        let deadline = Instant::now() + DEADLINE;
        loop {
            match Keeper::open(Path::new(RUN), Path::new("/var/lib/azure-vnet"), boot()) {
                Err(KeeperError::Kept { .. }) if Instant::now() < deadline => thread::yield_now(),
                keeper => return keeper.unwrap(),
            }
        }
    }

    /// What the agent does: adopts a pool and seals.
    pub fn adopt(&self, addresses: &[Ipv4Addr], revision: u64, cool_down: Duration) {
        let facts = PoolFacts {
            object_uid: "uid-1".into(),
            revision,
            content: ContentHash(revision),
            prefix: "10.240.0.0/16".parse().unwrap(),
            gateway: FABRIC,
            cool_down,
            mtu: None,
        };
        let slots = (1..=u8::MAX).zip(addresses).map(|(slot, address)| SlotAddress { slot, address: *address }).collect();
        let offered = addresses.iter().copied().collect();
        let keeper = self.keeper();
        keeper.adopt(&Adoption { facts, addresses: slots, offered, hold: Vec::new() }).unwrap();
        keeper.seal(SealOwner::Agent).unwrap();
    }

    pub fn store(&self) -> Store {
        Store::at(Path::new(RUN), boot())
    }

    /// PK1: what the agent adds for every pool address.
    pub fn refuse_unleased(&self, addresses: impl IntoIterator<Item = Ipv4Addr>) {
        let mut host = Netlink::open().unwrap();
        let routes = addresses.into_iter().map(|address| Change::AddRoute(Route::unreachable(address, UNREACHABLE_METRIC)));
        assert_eq!(host.changes(routes).unwrap(), []);
    }

    /// A new sandbox of a pod, with a namespace.
    pub fn sandbox(&self, container: &str, pod: &str) -> Sandbox {
        Sandbox { container: container.into(), pod: pod.into(), netns: make_netns(container) }
    }

    pub fn add(&self, sandbox: &Sandbox) -> Ended {
        self.run(sandbox, "ADD", &conf("1.0.0"))
    }

    pub fn del(&self, sandbox: &Sandbox) -> Ended {
        self.run(sandbox, "DEL", &conf("1.0.0"))
    }

    /// CHECK with what ADD answered.
    pub fn check(&self, sandbox: &Sandbox, added: &Ended) -> Ended {
        let mut conf = conf("1.0.0");
        conf["prevResult"] = added.json();
        self.run(sandbox, "CHECK", &conf)
    }

    pub fn run(&self, sandbox: &Sandbox, command: &str, conf: &Value) -> Ended {
        finish(self.start(PLUGIN, sandbox, command), conf)
    }

    /// With folders in which the plugin finds the host's programs.
    pub fn run_with(&self, sandbox: &Sandbox, command: &str, conf: &Value, path: &str) -> Ended {
        finish(self.command(PLUGIN, sandbox, command).env("PATH", path).spawn().unwrap(), conf)
    }

    /// A plugin that waits for its configuration.
    pub fn start(&self, plugin: &str, sandbox: &Sandbox, command: &str) -> Child {
        self.command(plugin, sandbox, command).spawn().unwrap()
    }

    fn command(&self, plugin: &str, sandbox: &Sandbox, command: &str) -> Command {
        let Sandbox { container, pod, netns } = sandbox;
        let mut process = Command::new(program(plugin));
        process
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", format!("{}:/run/others", program(PLUGIN).parent().unwrap().display()))
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID=uid-of-{pod}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        process
    }

    pub fn leases(&self) -> Vec<Lease> {
        let leases = self.store().list().unwrap().into_iter().filter_map(|(_, entry)| match entry {
            Entry::Leased(lease) => Some(lease),
            Entry::Cooling(_) | Entry::Quarantined(_) => None,
            Entry::Unreadable(unreadable) => panic!("{unreadable:?}"),
        });
        leases.collect()
    }

    pub fn host_links(&self) -> Vec<Link> {
        let links = Netlink::open().unwrap().links().unwrap();
        links.into_iter().filter(|link| link.name.starts_with(HOST_LINK_PREFIX)).collect()
    }

    /// Addresses with a route of their own on the host.
    pub fn pod_routes(&self) -> BTreeSet<Ipv4Addr> {
        let routes = Netlink::open().unwrap().routes(Family::V4, MAIN_TABLE).unwrap();
        routes
            .into_iter()
            .filter(|route| route.destination.prefix_len() == 32 && route.metric == 0)
            .filter_map(|r| v4(r.destination.addr()))
            .collect()
    }

    /// Addresses with an entry for good on the host, and those with rules: bridged pods have both, others neither.
    pub fn bridged(&self) -> [BTreeSet<Ipv4Addr>; 2] {
        let neighbours = Netlink::open().unwrap().neighbours(Family::V4).unwrap().into_iter();
        let permanent = neighbours.filter(|neighbour| neighbour.permanent && !neighbour.address.is_multicast());
        let rules = Frames::open().unwrap().observe().unwrap().into_iter().filter(|rule| rule.chain.is_of_pods());
        let addresses = rules.filter_map(|rule| rule.comment.address);
        [permanent.filter_map(|neighbour| v4(neighbour.address)).collect(), addresses.filter_map(v4).collect()]
    }

    /// Leases, links, routes, entries and rules are those of exactly these addresses.
    pub fn assert_holds(&self, addresses: &[Ipv4Addr], when: &str) {
        let expected: BTreeSet<_> = addresses.iter().copied().collect();
        let leases = self.leases();
        assert_eq!(leases.iter().map(|lease| lease.address).collect::<BTreeSet<_>>(), expected, "leases {when}");
        assert_eq!(self.pod_routes(), expected, "routes {when}");
        let links: BTreeSet<_> = self.host_links().into_iter().map(|link| link.name).collect();
        assert_eq!(links, leases.iter().map(|lease| lease.host_link.to_string()).collect(), "links {when}");
        let bridged: BTreeSet<_> = leases.iter().filter(|lease| lease.mode != Mode::Transparent).map(|lease| lease.address).collect();
        assert_eq!(self.bridged(), [bridged.clone(), bridged], "entries and rules {when}");
        // An entry of the index without its lease means nothing to anyone, and goes with the next sweep.
        match self.store().seal().map(|sealed| sealed.owner) {
            Ok(SealOwner::Plugin) => self.store().sweep_without_agent().unwrap(),
            Ok(SealOwner::Agent) | Err(_) => drop(self.keeper().sweep().unwrap()),
        }
        let index = fs::read_dir(Path::new(RUN).join("by")).unwrap().count();
        assert_eq!(index, expected.len(), "index entries {when}");
    }

    pub fn assert_nothing_left(&self, when: &str) {
        self.assert_holds(&[], when);
    }
}

impl Sandbox {
    /// The same container without its namespace, as a runtime leaves it.
    pub fn drop_netns(&self) {
        umount2(&self.netns, MntFlags::MNT_DETACH).unwrap();
        fs::remove_file(&self.netns).unwrap();
    }

    pub fn netlink(&self) -> Netlink {
        Netns::open(self.netns.to_str().unwrap()).unwrap().netlink().unwrap()
    }

    /// The pod's interfaces but for the loopback.
    pub fn links(&self) -> Vec<Link> {
        self.netlink().links().unwrap().into_iter().filter(|link| link.name != "lo").collect()
    }
}

pub fn conf(version: &str) -> Value {
    json!({ "cniVersion": version, "name": "azure", "type": "azure-vnet", "mode": "transparent",
            "ipam": { "type": "azure-vnet-ipam", "environment": "pool" } })
}

/// Gives a plugin its configuration and waits for its end.
pub fn finish(mut child: Child, conf: &Value) -> Ended {
    child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

pub fn boot() -> BootId {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().parse().unwrap()
}

/// Runs something in a namespace, on a thread of its own.
pub fn inside<T: Send + 'static>(netns: &Path, work: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = fs::File::open(netns).unwrap();
    let work = move || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    };
    match thread::spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits for a condition.
pub fn await_that(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        thread::yield_now();
    }
}

pub fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(address) = address { Some(address) } else { None }
}

fn make_netns(name: &str) -> PathBuf {
    let path = PathBuf::from("/run/netns").join(name);
    fs::File::create(&path).unwrap();
    let target = path.clone();
    let make = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        mount(Some("/proc/thread-self/ns/net"), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    };
    thread::spawn(make).join().unwrap();
    path
}
