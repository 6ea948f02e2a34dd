//! The CNI configuration list that the runtime reads, rendered from a node's effective values.

use std::collections::BTreeSet;

use azure_vnet_crds::config::{CniSpec, LogLevel, WiringMode};
use serde_json::{Map, Value, json};

/// Our plugin.
pub const PLUGIN: &str = "azure-vnet";
/// Our address management.
pub const IPAM: &str = "azure-vnet-ipam";
/// Name of the network, recorded in every lease.
pub const NETWORK: &str = "azure-vnet";
/// Versions that a list may have, newest first.
const VERSIONS: [&str; 5] = ["1.1.0", "1.0.0", "0.4.0", "0.3.1", "0.3.0"];
/// The newest that `Auto` takes: the agent cannot see the runtime's version, and every runtime in use accepts this one.
const AUTO: &str = "1.0.0";

/// What there is below `/proc/sys/net` where the kernel has loaded `br_netfilter`: without it no Service leads a bridged pod anywhere, and the plugin
/// wires none (safety rule PK3).
pub const BRIDGE_NETFILTER: &str = "bridge/bridge-nf-call-iptables";

/// A configuration list and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflist {
    /// File name below the configuration folder.
    pub file: FileName,
    /// Every plugin that it names; each must exist and answer before the list is written (safety rule UP4).
    pub plugins: BTreeSet<PluginName>,
    /// Whether pods are on a bridge, which needs [`BRIDGE_NETFILTER`].
    pub is_bridged: bool,
    wanted: String,
    list: Vec<Value>,
}

/// A name of one file: no path, not hidden, and an ending that runtimes read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName(String);

impl FileName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A plugin's file name: no path and not hidden.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PluginName(String);

impl PluginName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why no configuration list can be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConflistError {
    /// The file's name.
    #[error("{0:?} is no file name ending in .conflist; set spec.cni.confName of the AzureVnetConfig")]
    FileName(String),
    /// A plugin's name.
    #[error("spec.cni.chain names {0:?}, which is no plugin's file name")]
    PluginName(String),
}

/// Reads the effective values.
///
/// # Errors
/// When a name in them is none.
pub fn desire(cni: &CniSpec) -> Result<Conflist, ConflistError> {
    let CniSpec { conf_name, cni_version, chain, mode, master: _, bridge: _, ips_to_route_via_host: _, log_level: _, mtu: _ } = cni;
    let list: Vec<Value> = std::iter::once(ours(cni)).chain(chain.iter().cloned().map(Value::Object)).collect();
    let plugins = list.iter().map(names).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    let wanted = if matches!(cni_version.as_str(), "" | "Auto") { AUTO } else { cni_version }.to_owned();
    Ok(Conflist { file: file_name(conf_name)?, plugins, is_bridged: is_bridged(*mode), wanted, list })
}

impl Conflist {
    /// The newest version up to the wanted one that every plugin knows: a chained plugin older than ours would fail each ADD.
    #[must_use]
    pub fn version(&self, known: &[BTreeSet<String>]) -> Option<&'static str> {
        let candidates = VERSIONS.iter().copied().skip_while(|version| *version != self.wanted);
        candidates.into_iter().find(|version| known.iter().all(|known| known.contains(*version)))
    }

    /// The file's content.
    #[must_use]
    pub fn render(&self, version: &str) -> String {
        format!("{:#}\n", json!({"cniVersion": version, "name": NETWORK, "plugins": self.list}))
    }
}

fn ours(cni: &CniSpec) -> Value {
    let CniSpec { mode, master, bridge, ips_to_route_via_host, log_level, mtu, conf_name: _, cni_version: _, chain: _ } = cni;
    let mut plugin = Map::new();
    plugin.insert("type".into(), PLUGIN.into());
    plugin.insert("mode".into(), named(*mode).into());
    if !master.is_empty() {
        plugin.insert("master".into(), master.as_str().into());
    }
    // In transparent mode there is no bridge, and the host routes all addresses.
    let is_bridged = is_bridged(*mode);
    if is_bridged && !bridge.is_empty() {
        plugin.insert("bridge".into(), bridge.as_str().into());
    }
    if is_bridged && !ips_to_route_via_host.is_empty() {
        plugin.insert("ipsToRouteViaHost".into(), json!(ips_to_route_via_host));
    }
    if let Some(level) = level(*log_level) {
        plugin.insert("logLevel".into(), level.into());
    }
    if *mtu > 0 {
        plugin.insert("mtu".into(), (*mtu).into());
    }
    plugin.insert("ipam".into(), json!({"type": IPAM, "environment": "pool"}));
    Value::Object(plugin)
}

fn is_bridged(mode: WiringMode) -> bool {
    match mode {
        WiringMode::Transparent => false,
        WiringMode::Bridge | WiringMode::Tunnel => true,
    }
}

fn named(mode: WiringMode) -> &'static str {
    match mode {
        WiringMode::Transparent => "transparent",
        WiringMode::Bridge => "bridge",
        WiringMode::Tunnel => "tunnel",
    }
}

/// None for what a plugin does unasked.
fn level(level: LogLevel) -> Option<&'static str> {
    match level {
        LogLevel::Error => Some("error"),
        LogLevel::Warning => Some("warning"),
        LogLevel::Info => None,
        LogLevel::Debug => Some("debug"),
    }
}

/// The plugin and the IPAM plugin that it delegates to.
fn names(plugin: &Value) -> Result<Vec<PluginName>, ConflistError> {
    let mut found = vec![plugin_name(plugin.get("type"))?];
    if let Some(ipam) = plugin.get("ipam").and_then(|ipam| ipam.get("type")) {
        found.push(plugin_name(Some(ipam))?);
    }
    Ok(found)
}

fn plugin_name(name: Option<&Value>) -> Result<PluginName, ConflistError> {
    let name = name.and_then(Value::as_str).unwrap_or_default();
    if is_plain(name) { Ok(PluginName(name.to_owned())) } else { Err(ConflistError::PluginName(name.to_owned())) }
}

fn file_name(name: &str) -> Result<FileName, ConflistError> {
    if is_plain(name) && name.ends_with(".conflist") {
        Ok(FileName(name.to_owned()))
    } else {
        Err(ConflistError::FileName(name.to_owned()))
    }
}

/// Whether runtimes read a file of this name.
fn is_read(name: &str) -> bool {
    [".conf", ".conflist", ".json"].iter().any(|ending| name.ends_with(ending))
}

/// Which of a folder's files runtimes read before the list of this name: they take the first only.
#[must_use]
pub fn shadowing<'a>(file: &FileName, names: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    names.into_iter().filter(|name| is_read(name)).filter(|name| *name < file.as_str()).collect()
}

/// Whether a file of the configuration folder is one that an agent wrote: of our network, with addresses from an agent's pool.
#[must_use]
pub fn is_written_by_agent(text: &str) -> bool {
    let Ok(list) = serde_json::from_str::<Value>(text) else { return false };
    let of_ours =
        |plugin: &Value| plugin.get("type") == Some(&json!(PLUGIN)) && plugin.pointer("/ipam/environment") == Some(&json!("pool"));
    list.get("name") == Some(&json!(NETWORK)) && list.get("plugins").and_then(Value::as_array).is_some_and(|all| all.iter().any(of_ours))
}

/// The plugins of a file that an agent wrote for pods on no bridge; none of any other file.
#[must_use]
pub fn plugins_without_bridge(text: &str) -> Option<BTreeSet<PluginName>> {
    let list: Value = serde_json::from_str(text).ok().filter(|_| is_written_by_agent(text))?;
    let plugins = list.get("plugins")?.as_array()?;
    let unbridged = json!(named(WiringMode::Transparent));
    let is_fit = |plugin: &Value| plugin.get("type") != Some(&json!(PLUGIN)) || plugin.get("mode") == Some(&unbridged);
    if !plugins.iter().all(is_fit) {
        return None;
    }
    let plugins = plugins.iter().map(names).collect::<Result<Vec<_>, _>>().ok()?;
    Some(plugins.into_iter().flatten().collect())
}

/// Whether a file of the configuration folder names one of our plugins.
#[must_use]
pub fn names_ours(text: &str) -> bool {
    let Ok(list) = serde_json::from_str::<Value>(text) else { return false };
    plugins_of(&list)
        .flat_map(|plugin| [plugin.get("type"), plugin.pointer("/ipam/type")])
        .flatten()
        .any(|name| *name == json!(PLUGIN) || *name == json!(IPAM))
}

/// Whether a runtime that reads a file of this name gives pods addresses that our plugins learn of the machine: for that they need no agent.
#[must_use]
pub fn serves_without_agent(name: &str, text: &str) -> bool {
    let Ok(list) = serde_json::from_str::<Value>(text) else { return false };
    let learns =
        |plugin: &Value| plugin.pointer("/ipam/type") == Some(&json!(IPAM)) && plugin.pointer("/ipam/environment") != Some(&json!("pool"));
    is_read(name) && plugins_of(&list).any(learns)
}

/// Those of a list, or the one of a configuration without.
fn plugins_of(list: &Value) -> impl Iterator<Item = &Value> {
    list.get("plugins").and_then(Value::as_array).into_iter().flatten().chain(std::iter::once(list))
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && name.len() <= 128 && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Reads the versions from a plugin's answer to `VERSION`.
#[must_use]
pub fn known_versions(answer: &[u8]) -> Option<BTreeSet<String>> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let versions = answer.get("supportedVersions")?.as_array()?;
    Some(versions.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_default_list_reads_like_this() {
        let conflist = desire(&CniSpec::default()).unwrap();
        let expected = r#"{
  "cniVersion": "1.0.0",
  "name": "azure-vnet",
  "plugins": [
    {
      "ipam": {
        "environment": "pool",
        "type": "azure-vnet-ipam"
      },
      "mode": "transparent",
      "type": "azure-vnet"
    },
    {
      "capabilities": {
        "portMappings": true
      },
      "snat": true,
      "type": "portmap"
    }
  ]
}
"#;
        assert_eq!(conflist.render("1.0.0"), expected);
        assert_eq!(conflist.file.as_str(), "10-azure-vnet.conflist");
        assert_eq!(conflist.plugins.iter().map(PluginName::as_str).collect::<Vec<_>>(), ["azure-vnet", "azure-vnet-ipam", "portmap"]);
    }

    #[test]
    fn what_is_set_is_passed_on() {
        let chain = vec![json!({"type": "bandwidth", "ipam": {"type": "host-local"}}).as_object().cloned().unwrap()];
        let cni = CniSpec { mode: WiringMode::Tunnel, master: "eth0".into(), mtu: 1400, chain, ..CniSpec::default() };
        let conflist = desire(&cni).unwrap();
        let list: Value = serde_json::from_str(&conflist.render("1.1.0")).unwrap();
        assert_eq!(list["cniVersion"], "1.1.0");
        assert_eq!(list["plugins"][0]["mode"], "tunnel");
        assert_eq!(list["plugins"][0]["master"], "eth0");
        assert_eq!(list["plugins"][0]["mtu"], 1400);
        let names: Vec<_> = conflist.plugins.iter().map(PluginName::as_str).collect();
        assert_eq!(names, ["azure-vnet", "azure-vnet-ipam", "bandwidth", "host-local"]);
    }

    #[test]
    fn what_is_asked_of_a_bridge_is_passed_on_where_there_is_one() {
        let ours = |cni: CniSpec| serde_json::from_str::<Value>(&desire(&cni).unwrap().render("1.0.0")).unwrap()["plugins"][0].clone();
        let local = Ipv4Addr::new(169, 254, 20, 10);
        let set = |mode| CniSpec {
            mode,
            bridge: "azure0".into(),
            ips_to_route_via_host: vec![local, Ipv4Addr::new(10, 0, 0, 10)],
            log_level: LogLevel::Debug,
            ..CniSpec::default()
        };
        let ipam = json!({"type": IPAM, "environment": "pool"});
        assert_eq!(ours(set(WiringMode::Transparent)), json!({"type": PLUGIN, "mode": "transparent", "logLevel": "debug", "ipam": ipam}));
        for (mode, name) in [(WiringMode::Bridge, "bridge"), (WiringMode::Tunnel, "tunnel")] {
            let asked = json!({"type": PLUGIN, "mode": name, "bridge": "azure0", "ipsToRouteViaHost": ["169.254.20.10", "10.0.0.10"],
                "logLevel": "debug", "ipam": ipam});
            assert_eq!(ours(set(mode)), asked);
            let unasked = json!({"type": PLUGIN, "mode": name, "ipsToRouteViaHost": [local], "ipam": ipam});
            assert_eq!(ours(CniSpec { mode, ..CniSpec::default() }), unasked, "node-local DNS is reached unasked");
        }
        assert_eq!([LogLevel::Error, LogLevel::Warning].map(level), [Some("error"), Some("warning")]);
    }

    #[test]
    fn names_never_leave_their_folder() {
        for name in ["", "../x.conflist", "a/b.conflist", ".hidden.conflist", "10-azure.conf"] {
            assert_eq!(desire(&CniSpec { conf_name: name.into(), ..CniSpec::default() }), Err(ConflistError::FileName(name.into())));
        }
        for name in ["", "../../sbin/init", ".."] {
            let chain = vec![json!({"type": name}).as_object().cloned().unwrap()];
            assert_eq!(desire(&CniSpec { chain, ..CniSpec::default() }), Err(ConflistError::PluginName(name.into())));
        }
    }

    #[test]
    fn the_version_is_the_newest_that_every_plugin_knows() {
        let conflist = |version: &str| desire(&CniSpec { cni_version: version.into(), ..CniSpec::default() }).unwrap();
        let known = |versions: &[&str]| versions.iter().map(|version| (*version).to_owned()).collect::<BTreeSet<_>>();
        let (new, old) = (known(&["0.4.0", "1.0.0", "1.1.0"]), known(&["0.3.1", "0.4.0", "1.0.0"]));
        assert_eq!(conflist("1.1.0").version(&[new.clone(), new.clone()]), Some("1.1.0"));
        assert_eq!(conflist("1.1.0").version(&[new.clone(), old.clone()]), Some("1.0.0"));
        assert_eq!(conflist("Auto").version(&[new.clone(), new.clone()]), Some("1.0.0"));
        assert_eq!(conflist("0.3.1").version(&[new, old]), None);
    }

    #[test]
    fn what_sorts_before_the_list_shadows_it_if_runtimes_read_it() {
        let file = FileName("10-azure-vnet.conflist".into());
        let names =
            ["05-cilium.conflist", "10-azure-vnet.conflist", "10-azure.conflist", "05-old.conflist.bak", "99-loopback.conf", ".x.new"];
        assert_eq!(shadowing(&file, names), ["05-cilium.conflist"].into());
        assert_eq!(shadowing(&file, ["10-azure.conflist", "00.json"]), ["00.json"].into(), "a dot sorts after a hyphen");
    }

    #[test]
    fn a_list_of_the_agents_is_known_from_one_of_the_users_with_the_same_plugins() {
        let ours = desire(&CniSpec { conf_name: "05-x.conflist".into(), ..CniSpec::default() }).unwrap().render("1.0.0");
        let original =
            r#"{"name": "azure", "plugins": [{"type": "azure-vnet", "ipam": {"type": "azure-vnet-ipam"}}, {"type": "portmap"}]}"#;
        let other = r#"{"name": "lab", "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}]}"#;
        assert!(is_written_by_agent(&ours) && names_ours(&ours));
        assert!(!is_written_by_agent(original) && names_ours(original));
        assert!(!is_written_by_agent(other) && !names_ours(other));
        assert!(!is_written_by_agent("half a fi") && !names_ours("[]"));
        assert!(names_ours(r#"{"name": "a", "type": "ipvlan", "ipam": {"type": "azure-vnet-ipam"}}"#));
    }

    #[test]
    fn only_a_list_of_the_agents_for_pods_on_no_bridge_tells_its_plugins() {
        let found = |mode| {
            let list = desire(&CniSpec { mode, ..CniSpec::default() }).unwrap();
            (plugins_without_bridge(&list.render("1.0.0")), Some(list.plugins))
        };
        let (transparent, expected) = found(WiringMode::Transparent);
        assert_eq!(transparent, expected);
        assert_eq!([WiringMode::Bridge, WiringMode::Tunnel].map(|mode| found(mode).0), [None, None]);
        let others =
            r#"{"name": "azure", "plugins": [{"type": "azure-vnet", "mode": "transparent", "ipam": {"type": "azure-vnet-ipam"}}]}"#;
        assert_eq!([others, "half a fi"].map(plugins_without_bridge), [None, None]);
    }

    #[test]
    fn a_list_that_needs_no_agent_is_known_by_its_source_of_addresses() {
        let list =
            |ipam: &str| format!(r#"{{"name": "azure", "plugins": [{{"type": "azure-vnet", "ipam": {ipam}}}, {{"type": "portmap"}}]}}"#);
        let serves = |ipam: &str| serves_without_agent("10-azure.conflist", &list(ipam));
        assert!(serves(r#"{"type": "azure-vnet-ipam"}"#) && !serves("{}"));
        assert!(
            serves(r#"{"type": "azure-vnet-ipam", "environment": "azure"}"#)
                && serves(r#"{"type": "azure-vnet-ipam", "environment": "mas"}"#)
        );
        assert!(!serves(r#"{"type": "azure-vnet-ipam", "environment": "pool"}"#) && !serves(r#"{"type": "host-local"}"#));
        let ptp = r#"{"name": "a", "type": "ptp", "ipam": {"type": "azure-vnet-ipam"}}"#;
        assert!(serves_without_agent("05-a.conf", ptp) && !serves_without_agent("05-a.conf.bak", ptp), "runtimes read no backup");
        let ours = desire(&CniSpec::default()).unwrap().render("1.0.0");
        assert!(!serves_without_agent("10-azure-vnet.conflist", &ours) && !serves_without_agent("10-x.conf", "half a fi"));
    }

    #[test]
    fn only_a_proper_answer_is_read() {
        let answer = br#"{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0"]}"#;
        assert_eq!(known_versions(answer), Some(["0.4.0", "1.0.0"].map(Into::into).into()));
        assert_eq!(known_versions(b""), None);
        assert_eq!(known_versions(b"[]"), None);
    }
}
