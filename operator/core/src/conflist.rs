//! The CNI configuration list that the runtime reads, rendered from a node's effective values.

use std::collections::BTreeSet;

use azure_vnet_crds::config::{CniSpec, WiringMode};
use serde_json::{Map, Value, json};

/// Our plugin.
pub const PLUGIN: &str = "azure-vnet";
/// Our address management.
pub const IPAM: &str = "azure-vnet-ipam";
/// Name of the network, recorded in every lease.
pub const NETWORK: &str = "azure-vnet";
/// What `Auto` means to the agent, which cannot see the runtime's version: every runtime in use accepts it. The controller can, and puts a
/// newer one into the effective values where the runtime is known to accept it.
pub const AUTO_VERSION: &str = "1.0.0";

/// A configuration list and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflist {
    /// File name below the configuration folder.
    pub file: FileName,
    /// Its content.
    pub text: String,
    /// CNI version that every plugin must know.
    pub version: String,
    /// Every plugin that it names.
    pub plugins: BTreeSet<PluginName>,
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

/// Renders the list.
///
/// # Errors
/// When a name in it is none.
pub fn render(cni: &CniSpec) -> Result<Conflist, ConflistError> {
    let CniSpec { conf_name, cni_version, mode, master, mtu, chain } = cni;
    let version = if matches!(cni_version.as_str(), "" | "Auto") { AUTO_VERSION } else { cni_version };
    let plugins = std::iter::once(ours(*mode, master, *mtu)).chain(chain.iter().cloned().map(Value::Object)).collect::<Vec<_>>();
    let names = plugins.iter().map(names).collect::<Result<Vec<_>, _>>()?;
    let list = json!({"cniVersion": version, "name": NETWORK, "plugins": plugins});
    Ok(Conflist {
        file: file_name(conf_name)?,
        text: format!("{list:#}\n"),
        version: version.to_owned(),
        plugins: names.into_iter().flatten().collect(),
    })
}

fn ours(mode: WiringMode, master: &str, mtu: u32) -> Value {
    let mode = match mode {
        WiringMode::Transparent => "transparent",
    };
    let mut plugin = Map::new();
    plugin.insert("type".into(), PLUGIN.into());
    plugin.insert("mode".into(), mode.into());
    if !master.is_empty() {
        plugin.insert("master".into(), master.into());
    }
    if mtu > 0 {
        plugin.insert("mtu".into(), mtu.into());
    }
    plugin.insert("ipam".into(), json!({"type": IPAM, "environment": "pool"}));
    Value::Object(plugin)
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

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && name.len() <= 128 && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Whether a plugin's answer to `VERSION` says that it knows this version.
#[must_use]
pub fn answers_version(answer: &[u8], version: &str) -> bool {
    let supported = serde_json::from_slice::<Value>(answer).ok();
    let supported = supported.as_ref().and_then(|answer| answer.get("supportedVersions")).and_then(Value::as_array);
    supported.is_some_and(|versions| versions.iter().any(|known| known == version))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    #[test]
    fn the_default_list_reads_like_this() {
        let conflist = render(&CniSpec::default()).unwrap();
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
        assert_eq!(conflist.text, expected);
        assert_eq!(conflist.file.as_str(), "10-azure-vnet.conflist");
        assert_eq!(conflist.plugins.iter().map(PluginName::as_str).collect::<Vec<_>>(), ["azure-vnet", "azure-vnet-ipam", "portmap"]);
    }

    #[test]
    fn what_is_set_is_passed_on() {
        let chain = vec![json!({"type": "bandwidth", "ipam": {"type": "host-local"}}).as_object().cloned().unwrap()];
        let cni = CniSpec { cni_version: "1.1.0".into(), master: "eth0".into(), mtu: 1400, chain, ..CniSpec::default() };
        let conflist = render(&cni).unwrap();
        let list: Value = serde_json::from_str(&conflist.text).unwrap();
        assert_eq!(list["cniVersion"], "1.1.0");
        assert_eq!(list["plugins"][0]["master"], "eth0");
        assert_eq!(list["plugins"][0]["mtu"], 1400);
        let names: Vec<_> = conflist.plugins.iter().map(PluginName::as_str).collect();
        assert_eq!(names, ["azure-vnet", "azure-vnet-ipam", "bandwidth", "host-local"]);
    }

    #[test]
    fn names_never_leave_their_folder() {
        for name in ["", "../x.conflist", "a/b.conflist", ".hidden.conflist", "10-azure.conf"] {
            assert_eq!(render(&CniSpec { conf_name: name.into(), ..CniSpec::default() }), Err(ConflistError::FileName(name.into())));
        }
        for name in ["", "../../sbin/init", ".."] {
            let chain = vec![json!({"type": name}).as_object().cloned().unwrap()];
            assert_eq!(render(&CniSpec { chain, ..CniSpec::default() }), Err(ConflistError::PluginName(name.into())));
        }
    }

    #[test]
    fn only_a_proper_answer_with_this_version_counts() {
        let answer = br#"{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0"]}"#;
        assert!(answers_version(answer, "1.0.0"));
        assert!(!answers_version(answer, "1.1.0"));
        assert!(!answers_version(b"", "1.0.0"));
        assert!(!answers_version(b"[]", "1.0.0"));
    }
}
