//! The fields of a configuration that say how pods are wired: those of the original's modes that exist here are read, those of modes that do not
//! are refused with what to use in their place, and those that only tune what is absent are of the right type and of no effect.

use crate::{
    answer::Dns,
    attachment::{IfName, Mode},
    error::{CniError, Code},
    json::{Object, TypeError},
    wiring::Mac,
};

/// How pods are wired, but for the mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkConf {
    /// `bridge`: the bridge's name.
    pub bridge: Option<IfName>,
    /// `disableHairpinOnHostInterface`.
    pub no_uplink_hairpin: bool,
    /// `runtimeConfig.mac`, else `args.cni.mac`: the hardware address of the pod's end.
    pub mac: Option<Mac>,
    /// `runtimeConfig.dns`: resolvers that a runtime wants for this pod, in place of all others.
    pub dns: Option<Dns>,
}

/// Fields that are of the right type and of no effect here: what they tune is absent.
const WITHOUT_EFFECT: [(&str, Kind); 17] = [
    ("type", Kind::Text),
    ("capabilities", Kind::Object),
    ("adapterName", Kind::Text),
    ("logLevel", Kind::Text),
    ("logTarget", Kind::Text),
    ("serviceCidrs", Kind::Text),
    ("vnetCidrs", Kind::Text),
    ("cnsurl", Kind::Text),
    ("env", Kind::Text),
    ("enableExactMatchForPodName", Kind::Flag),
    ("disableIPTableLock", Kind::Flag),
    ("disableAsyncDelete", Kind::Flag),
    ("windowsSettings", Kind::Object),
    ("AdditionalArgs", Kind::List),
    ("enableSnatOnHost", Kind::Flag),
    ("infraVnetAddressSpace", Kind::Text),
    ("podNamespaceForDualNetwork", Kind::List),
];

/// What a runtime hands over for plugins that come after this one in the chain: the ports of `portmap`, the rates of `bandwidth`.
const OF_OTHERS: [(&str, Kind); 2] = [("portMappings", Kind::List), ("bandwidth", Kind::Object)];

#[derive(Clone, Copy, Debug)]
enum Kind {
    Text,
    Flag,
    Object,
    List,
}

/// The mode of a configuration. One that is omitted has always meant tunnel.
///
/// # Errors
/// There is no such mode, or a field belongs to one that there is not.
pub(crate) fn mode(object: Object<'_>) -> Result<Mode, CniError> {
    refuse_what_is_absent(object)?;
    match object.text("mode").map_err(wrong_type)? {
        None | Some("l2-tunnel") => Ok(Mode::Tunnel),
        Some("l2-bridge") => Ok(Mode::Bridge),
        Some("transparent-vlan") => Err(instead("mode", "\"transparent-vlan\"", MULTITENANCY)),
        Some(text) => text.parse().map_err(|_| {
            CniError::new(Code::InvalidConfig, format!("Network mode is invalid: {text:?}"))
                .with_details("write \"transparent\", \"bridge\" or \"tunnel\" as \"mode\"")
        }),
    }
}

impl NetworkConf {
    pub(crate) fn parse(object: Object<'_>) -> Result<Self, CniError> {
        are_of_their_kinds(object, &WITHOUT_EFFECT)?;
        let runtime = object.object("runtimeConfig").map_err(wrong_type)?;
        runtime.map_or(Ok(()), |runtime| are_of_their_kinds(runtime, &OF_OTHERS))?;
        let of_caller =
            object.object("args").map_err(wrong_type)?.map(|args| args.object("cni")).transpose().map_err(wrong_type)?.flatten();
        let mac = |from: Option<Object<'_>>, key: &str| {
            let text = from.map(|from| from.text("mac")).transpose().map_err(wrong_type)?.flatten();
            text.map(|text| text.parse::<Mac>().map_err(|error| invalid(key, &error))).transpose()
        };
        Ok(Self {
            bridge: object.text("bridge").map_err(wrong_type)?.map(|name| name.parse().map_err(|e| invalid("bridge", &e))).transpose()?,
            no_uplink_hairpin: object.flag("disableHairpinOnHostInterface").map_err(wrong_type)?,
            mac: mac(runtime, "runtimeConfig.mac")?.map_or_else(|| mac(of_caller, "args.cni.mac"), |mac| Ok(Some(mac)))?,
            dns: runtime.map(runtime_dns).transpose()?.flatten(),
        })
    }
}

fn are_of_their_kinds(object: Object<'_>, fields: &[(&str, Kind)]) -> Result<(), CniError> {
    fields.iter().try_for_each(|(key, kind)| {
        match kind {
            Kind::Text => object.text(key).map(drop),
            Kind::Flag => object.flag(key).map(drop),
            Kind::Object => object.object(key).map(drop),
            Kind::List => object.list(key).map(drop),
        }
        .map_err(wrong_type)
    })
}

/// Resolvers as a runtime hands them to a plugin with the capability `dns`.
fn runtime_dns(runtime: Object<'_>) -> Result<Option<Dns>, CniError> {
    let Some(dns) = runtime.object("dns").map_err(wrong_type)? else { return Ok(None) };
    let texts = |key| dns.texts(key).map_err(wrong_type);
    let dns = Dns { nameservers: texts("servers")?, domain: None, search: texts("searches")?, options: texts("options")? };
    Ok(Some(dns).filter(|dns| *dns != Dns::default()))
}

const MULTITENANCY: &str = "pods of several virtual networks on one node need Azure's own add-on; here, leave the field out, write \"mode\": \
                            \"transparent\", and keep tenants apart by network policy";

fn refuse_what_is_absent(object: Object<'_>) -> Result<(), CniError> {
    if object.flag("multiTenancy").map_err(wrong_type)? {
        return Err(instead("multiTenancy", "true", MULTITENANCY));
    }
    if let Some(mode) = object.text("executionMode").map_err(wrong_type)?.filter(|mode| *mode != "default") {
        let use_instead = match mode {
            "baremetal" => "pods of bare-metal nodes need their node agent; on a virtual machine, leave the field out",
            _ => "leave the field out, and \"ipam\": {\"type\": \"azure-vnet-ipam\"}: the operator keeps the node's addresses",
        };
        return Err(instead("executionMode", &format!("{mode:?}"), use_instead));
    }
    if let Some(mode) = object.text("ipv6Mode").map_err(wrong_type)? {
        let use_instead = "leave the field out; for IPv6 beside IPv4, an IPAM plugin that gives both, such as host-local with two ranges";
        return Err(instead("ipv6Mode", &format!("{mode:?}"), use_instead));
    }
    let ipam = object.object("ipam").map_err(wrong_type)?;
    let kind = ipam.map(|ipam| ipam.text("type")).transpose().map_err(wrong_type)?.flatten();
    match kind {
        Some(kind @ ("azure-cns" | "azure-vnet-ipamv6" | "azure-ipam")) => {
            let use_instead = "write \"azure-vnet-ipam\": the operator's agent, not CNS, keeps the node's addresses";
            Err(instead("ipam.type", &format!("{kind:?}"), use_instead))
        }
        Some(_) | None => Ok(()),
    }
}

fn instead(key: &str, value: &str, use_instead: &str) -> CniError {
    CniError::new(Code::UnsupportedField, format!("{key}: {value} is not supported")).with_details(use_instead)
}

#[expect(clippy::needless_pass_by_value, reason = "so that it reads as map_err(wrong_type)")]
fn wrong_type(error: TypeError) -> CniError {
    CniError::because(Code::InvalidConfig, &error)
}

fn invalid(key: &str, error: &dyn std::error::Error) -> CniError {
    CniError::new(Code::InvalidConfig, format!("{key}: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::conf::{NetConf, Role};

    fn with(more: &Value) -> Value {
        let mut conf = json!({ "cniVersion": "1.0.0", "name": "azure", "mode": "transparent", "ipam": { "type": "azure-vnet-ipam" } });
        for (key, value) in more.as_object().unwrap() {
            conf[key] = value.clone();
        }
        conf
    }

    fn parse(more: &Value) -> Result<NetConf, CniError> {
        NetConf::parse(&with(more), Role::Network)
    }

    #[test]
    fn every_spelling_of_a_mode_is_known_and_none_means_tunnel() {
        for (text, mode) in [
            (json!("transparent"), Mode::Transparent),
            (json!("bridge"), Mode::Bridge),
            (json!("l2bridge"), Mode::Bridge),
            (json!("l2-bridge"), Mode::Bridge),
            (json!("tunnel"), Mode::Tunnel),
            (json!("l2tunnel"), Mode::Tunnel),
            (json!("l2-tunnel"), Mode::Tunnel),
            (json!(""), Mode::Tunnel),
            (Value::Null, Mode::Tunnel),
        ] {
            assert_eq!(parse(&json!({ "mode": text })).unwrap().mode, mode, "{text}");
        }
        assert_eq!(parse(&json!({ "mode": "macvlan" })).unwrap_err().code.number(), 7);
    }

    #[test]
    fn a_field_of_a_mode_that_is_absent_is_named_with_what_to_use_instead() {
        for (more, key) in [
            (json!({ "multiTenancy": true }), "multiTenancy"),
            (json!({ "mode": "transparent-vlan" }), "mode"),
            (json!({ "ipam": { "type": "azure-cns" } }), "ipam.type"),
            (json!({ "ipam": { "type": "azure-vnet-ipamv6" } }), "ipam.type"),
            (json!({ "ipam": { "type": "azure-vnet-ipam", "mode": "overlay" } }), "ipam.mode"),
            (json!({ "executionMode": "baremetal" }), "executionMode"),
            (json!({ "executionMode": "v4swift" }), "executionMode"),
            (json!({ "ipv6Mode": "ipv6nat" }), "ipv6Mode"),
        ] {
            let error = parse(&more).unwrap_err();
            assert!(error.code.number() == 2 && error.msg.starts_with(key) && error.details.len() > 20, "{error:?}");
        }
    }

    #[test]
    fn all_other_fields_of_the_original_are_taken() {
        let all = json!({
            "type": "azure-vnet", "capabilities": { "portMappings": true }, "mode": "bridge", "master": "eth0", "adapterName": "", "bridge": "azure0", "logLevel": "info",
            "logTarget": "stderr", "infraVnetAddressSpace": "", "podNamespaceForDualNetwork": [], "serviceCidrs": "10.0.0.0/16",
            "vnetCidrs": "10.0.0.0/8", "ipsToRouteViaHost": ["169.254.20.10", "fd00:20::10"], "multiTenancy": false, "enableSnatOnHost": true,
            "enableExactMatchForPodName": false, "disableHairpinOnHostInterface": true, "disableIPTableLock": true,
            "disableAsyncDelete": true, "cnsurl": "http://localhost:10090", "executionMode": "default", "env": "",
            "dns": { "Nameservers": ["10.0.0.10"], "Search": ["svc.cluster.local"] }, "windowsSettings": { "enableLoopbackDSR": true },
            "AdditionalArgs": [{ "Name": "EndpointPolicy", "Value": {} }],
            "runtimeConfig": { "mac": "02:00:00:00:00:07", "portMappings": [{ "hostPort": 80, "containerPort": 8080, "protocol": "tcp" }],
                               "bandwidth": { "ingressRate": 1000 }, "dns": { "servers": ["10.0.0.9"], "searches": ["a"], "options": ["b"] } },
        });
        let conf = parse(&all).unwrap();
        assert_eq!((conf.mode, conf.network.no_uplink_hairpin), (Mode::Bridge, true));
        assert_eq!((conf.network.bridge.unwrap().as_str(), conf.master.unwrap().as_str()), ("azure0", "eth0"));
        assert_eq!(conf.network.mac, Some(Mac([2, 0, 0, 0, 0, 7])));
        assert_eq!(conf.network.dns.unwrap().nameservers, ["10.0.0.9"]);
        for (more, part) in [
            (json!({ "bridge": "a/b" }), "bridge"),
            (json!({ "logLevel": 1 }), "logLevel"),
            (json!({ "disableIPTableLock": "yes" }), "disableIPTableLock"),
            (json!({ "AdditionalArgs": {} }), "AdditionalArgs"),
            (json!({ "type": 1 }), "type"),
            (json!({ "capabilities": ["portMappings"] }), "capabilities"),
            (json!({ "runtimeConfig": { "mac": "01:00:00:00:00:07" } }), "runtimeConfig.mac"),
            (json!({ "runtimeConfig": { "portMappings": { "hostPort": 80 } } }), "portMappings"),
            (json!({ "runtimeConfig": { "bandwidth": 1000 } }), "bandwidth"),
        ] {
            let error = parse(&more).unwrap_err();
            assert!(error.code.number() == 7 && error.msg.contains(part), "{error:?}");
        }
    }
}
