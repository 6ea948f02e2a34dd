//! The commands of the protocol, for both plugins: reads the request, carries it out, answers, and writes one line to the log.

mod add;
mod check;
mod del;
mod errors;
mod gc;
mod log;

use std::{
    cell::Cell,
    ffi::OsString,
    io::{self, IsTerminal as _, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use azure_vnet_plugin_core::{
    attachment::Attachment,
    boot::BootId,
    conf::{Ipam, LogLevel, Role, StatusConf},
    error::{CniError, Code},
    ipam::OwnIpam,
    request::{self, Add, Environment, Request},
    version::CniVersion,
};
use serde_json::{Value, json};

use crate::{
    delegate::Delegate,
    netlink::Netlink,
    small,
    source::{self, Machine, Places, StateFiles, later},
    store::Store,
};

/// Where things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The node store.
    pub store: PathBuf,
    /// The kernel's id of this boot.
    pub boot_id: PathBuf,
    /// The log.
    pub log: PathBuf,
    /// The files that tell of addresses.
    pub places: Places,
}

impl Paths {
    /// The paths of a node.
    #[must_use]
    pub fn of_node(role: Role) -> Self {
        Self {
            store: "/run/azure-vnet".into(),
            boot_id: "/proc/sys/kernel/random/boot_id".into(),
            log: match role {
                Role::Network => "/var/log/azure-vnet.log",
                Role::Ipam => "/var/log/azure-vnet-ipam.log",
            }
            .into(),
            places: Places {
                interfaces: "/etc/kubernetes/interfaces.json".into(),
                set_aside: "/var/lib/azure-vnet/quarantine".into(),
                original: StateFiles {
                    network: "/var/run/azure-vnet.json".into(),
                    ipam: "/var/run/azure-vnet-ipam.json".into(),
                    lock: "/var/run/azure-vnet/azure-vnet.lock".into(),
                },
            },
        }
    }
}

/// One run of a plugin.
#[derive(Debug)]
struct Run<'a> {
    role: Role,
    paths: &'a Paths,
    environment: &'a Environment,
    stdin: &'a [u8],
    store: Store,
    /// Whether something is to be learned once the answer is out.
    learns_later: Cell<bool>,
}

/// What a command did, for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Done {
    address: Option<IpAddr>,
    what: String,
    /// What could not be done, and was no reason to fail.
    warning: Option<String>,
}

impl Done {
    fn that(what: impl Into<String>) -> Self {
        Self { address: None, what: what.into(), warning: None }
    }

    fn with(address: impl Into<IpAddr>, what: impl Into<String>) -> Self {
        Self { address: Some(address.into()), what: what.into(), warning: None }
    }

    /// With addresses that were not given since someone uses them (safety rule ST4).
    fn skipping(self, skipped: &[String]) -> Self {
        let skipped = (!skipped.is_empty()).then(|| format!("not given: {}", skipped.join(", ")));
        let warnings: Vec<String> = self.warning.into_iter().chain(skipped).collect();
        Self { warning: (!warnings.is_empty()).then(|| warnings.join("; ")), ..self }
    }
}

/// A plugin's whole life: parses, runs, answers on standard output.
#[must_use]
pub fn main(role: Role, paths: &Paths) -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.first().and_then(|argument| argument.to_str()) {
        Some("-v" | "--version") => return printed(&say(&mut io::stdout(), &format!("Azure CNI Version {}", env!("CARGO_PKG_VERSION")))),
        Some(later::ARGUMENT) => return learn(role, paths),
        Some(_) => return printed(&say(&mut io::stderr(), &usage())),
        None => {}
    }
    let environment = environment();
    if environment.command.is_none() && io::stdin().is_terminal() {
        return printed(&say(&mut io::stderr(), &usage()));
    }
    let stdin = match small::input(request::MOST_BYTES) {
        Ok(stdin) => stdin,
        Err(error) => return fail(CniVersion::NEWEST, &CniError::new(Code::Io, format!("cannot read standard input: {error}"))),
    };
    if environment.command.is_none() && stdin.is_empty() {
        return printed(&say(&mut io::stderr(), &usage()));
    }
    command(role, paths, &environment, &stdin)
}

fn command(role: Role, paths: &Paths, environment: &Environment, stdin: &[u8]) -> ExitCode {
    let started = Instant::now();
    let request = match Request::parse(environment, stdin, role) {
        Ok(request) => request,
        Err((version, error)) => {
            let error = if environment.command.as_deref() == Some("DEL") { error.for_del() } else { error };
            let code = fail(version, &error);
            let entry = log::Entry { environment, took: started.elapsed(), result: &Err(error) };
            log::append(&paths.log, LogLevel::of(stdin), &entry);
            return code;
        }
    };
    if let Request::Version(version) = request {
        return printed(&write_json(&versions(version)));
    }
    let version = version_of(&request);
    let in_boot = |boot| Run { role, paths, environment, stdin, store: Store::at(&paths.store, boot), learns_later: Cell::new(false) };
    let run = boot_id(&paths.boot_id).map(in_boot);
    let result = run.as_ref().map_err(CniError::clone).and_then(|run| run.carry_out(&request));
    let result = match &request {
        Request::Del(_) => result.map_err(CniError::for_del),
        Request::Add(_) | Request::Check(_) | Request::Gc(_) | Request::Status(_) | Request::Version(_) => result,
    };
    let code = match &result {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => fail(version, error),
    };
    log::append(&paths.log, LogLevel::of(stdin), &log::Entry { environment, took: started.elapsed(), result: &result });
    if let (Ok(run), Request::Add(add)) = (&run, &request) {
        run.learn_later(add);
    }
    code
}

/// The life of a process that asks what nobody waits for ([`later`]). It has nobody to tell.
fn learn(role: Role, paths: &Paths) -> ExitCode {
    let learned = || {
        let stdin = small::input(request::MOST_BYTES).ok()?;
        let Ok(Request::Add(add)) = Request::parse(&environment(), &stdin, role) else { return None };
        let Ipam::Own(own) = &add.conf.ipam else { return None };
        let store = Store::at(&paths.store, boot_id(&paths.boot_id).ok()?);
        Machine::of(&store, own, &paths.places)?.learn(&mut Netlink::open().ok()?).ok()
    };
    if learned().is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Run<'_> {
    fn carry_out(&self, request: &Request) -> Result<Done, CniError> {
        match request {
            Request::Add(add) => self.add(add),
            Request::Del(del) => self.del(del),
            Request::Check(check) => self.check(check),
            Request::Gc(conf) => self.gc(conf),
            Request::Status(conf) => {
                self.status(conf)?;
                Ok(Done::that("ready"))
            }
            Request::Version(_) => Ok(Done::default()),
        }
    }

    /// Fails only where no ADD can succeed: a pool without a free address is none of its business.
    fn status(&self, conf: &StatusConf) -> Result<(), CniError> {
        let own = match &conf.ipam {
            Ipam::Delegated(name) => return self.delegate(name).tell("STATUS"),
            Ipam::Own(own) => own,
        };
        let supply = source::supply(own);
        let found = self.store.has_pool(&supply);
        let found = match (found, self.machine(own)) {
            (Err(_), Some(machine)) => {
                let mut host = Netlink::open().map_err(|error| errors::netlink(&error))?;
                let prepared = machine.prepare(&mut host, &conf.name);
                prepared.map_err(|error| errors::source(&error).with_code(Code::Unavailable))?;
                self.store.has_pool(&supply)
            }
            (found, _) => found,
        };
        found.map_err(|error| errors::status(&error, own.source))
    }

    /// Has a process ask what is due by now. What fails of it is left to the next command.
    fn learn_later(&self, add: &Add) {
        let Ipam::Own(own) = &add.conf.ipam else { return };
        if self.learns_later.get() && self.machine(own).is_some_and(|machine| machine.claim().unwrap_or(false)) {
            let _ = later::start(self.stdin);
        }
    }

    /// The machine's own services, where the configuration lets them be asked.
    fn machine<'a>(&'a self, own: &'a OwnIpam) -> Option<Machine<'a>> {
        Machine::of(&self.store, own, &self.paths.places)
    }

    fn delegate<'a>(&'a self, name: &'a str) -> Delegate<'a> {
        Delegate { name, environment: self.environment, stdin: self.stdin }
    }
}

fn version_of(request: &Request) -> CniVersion {
    match request {
        Request::Add(add) | Request::Check(add) => add.conf.version,
        Request::Del(del) => del.conf.version,
        Request::Gc(conf) => conf.version,
        Request::Status(conf) => conf.version,
        Request::Version(version) => *version,
    }
}

fn environment() -> Environment {
    let variable = |name| std::env::var(name).ok();
    Environment {
        command: variable("CNI_COMMAND"),
        container_id: variable("CNI_CONTAINERID"),
        netns: variable("CNI_NETNS"),
        if_name: variable("CNI_IFNAME"),
        args: variable("CNI_ARGS"),
        path: variable("CNI_PATH"),
    }
}

fn boot_id(path: &Path) -> Result<BootId, CniError> {
    let bytes = small::read(path).map_err(|error| CniError::new(Code::Io, format!("cannot read {}: {error}", path.display())))?;
    String::from_utf8_lossy(&bytes).parse().map_err(|error| CniError::new(Code::Io, format!("{}: {error}", path.display())))
}

fn usage() -> String {
    format!(
        "Azure CNI Version {}\nCNI protocol versions supported: {}\n\
         A CNI plugin: run by a container runtime with CNI_COMMAND and the network configuration on standard input.\n\
         -v, --version  prints the version",
        env!("CARGO_PKG_VERSION"),
        CniVersion::ALL.map(CniVersion::as_str).join(", ")
    )
}

fn versions(version: CniVersion) -> Value {
    json!({ "cniVersion": version.as_str(), "supportedVersions": CniVersion::ALL.map(CniVersion::as_str) })
}

fn fail(version: CniVersion, error: &CniError) -> ExitCode {
    // Without a reader there is no one to tell; the status says it still.
    let _ = write_json(&error.print(version));
    ExitCode::FAILURE
}

/// Writes an answer in one call.
fn write_json(answer: &Value) -> io::Result<()> {
    let mut text = serde_json::to_vec(answer)?;
    text.push(b'\n');
    small::output(&text)
}

fn say(out: &mut dyn Write, text: &str) -> io::Result<()> {
    out.write_all(format!("{text}\n").as_bytes())?;
    out.flush()
}

fn printed(result: &io::Result<()>) -> ExitCode {
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn subject(attachment: &Attachment) -> String {
    format!("container {}, interface {}", attachment.container, attachment.if_name)
}
