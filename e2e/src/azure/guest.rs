//! What a machine sees of the cloud: IMDS and the wireserver, each with its rules about who may ask and how.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Map, Value, json};

use super::answer::{Answer, Delivery, Request};
use super::cloud::Cloud;
use super::command::{Class, Effect};
use super::path::{last, subscription_of};
use super::resource::{Machine, Nic, Shape, Subnet};

/// Who calls IMDS or the wireserver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The machine whose primary address the request comes from.
    Source,
    /// Always this node, whatever the source: for tests on loopback.
    Node(String),
}

/// Requests of each machine in the running second.
pub(super) type Rates = BTreeMap<String, (u64, u32)>;

const VERSIONS: [&str; 12] = [
    "2017-03-01",
    "2018-02-01",
    "2019-06-01",
    "2019-11-01",
    "2020-12-01",
    "2021-01-01",
    "2021-02-01",
    "2021-12-13",
    "2023-07-01",
    "2024-03-15",
    "2024-07-17",
    "2025-04-07",
];

impl Cloud {
    pub fn imds(&mut self, request: &Request, caller: &Caller) -> Answer {
        let class = if request.path.to_lowercase().starts_with("/metadata/identity") { Class::ImdsToken } else { Class::Imds };
        self.guest(request, caller, class, |cloud, node| cloud.metadata(request, node))
    }

    pub fn wireserver(&mut self, request: &Request, caller: &Caller) -> Answer {
        self.guest(request, caller, Class::Wireserver, |cloud, node| cloud.interface_info(request, node))
    }

    /// Finds out who calls, lets a fault strike, and logs.
    fn guest(&mut self, request: &Request, caller: &Caller, class: Class, serve: impl FnOnce(&mut Self, &str) -> Answer) -> Answer {
        let answer = match (self.caller(request.peer, caller), self.strike(class, request)) {
            (Err(answer), _) => answer,
            (Ok(_), Some(Effect::Error { status, code, .. })) => Answer::json(status, json!({ "error": code, "error_description": code })),
            (Ok(_), Some(Effect::Cut { .. })) => Answer::silent(Delivery::Cut),
            (Ok(_), Some(Effect::Throttle { .. })) => too_many(),
            (Ok(node), Some(Effect::Slow { millis })) => {
                let delivery = Delivery::After(std::time::Duration::from_millis(millis));
                Answer { delivery, ..serve(self, &node) }
            }
            (Ok(node), _) => serve(self, &node),
        };
        let (status, code) = (answer.status, answer.code.clone());
        self.journal.called(self.now, class, request, request.peer.to_string(), status, code);
        answer
    }

    fn caller(&self, peer: IpAddr, caller: &Caller) -> Result<String, Answer> {
        let delivery = if self.settings.refuse_secondary_callers { Delivery::Cut } else { Delivery::Hang };
        let silence = || Answer::silent(delivery);
        if let Caller::Node(node) = caller {
            return Ok(node.clone());
        }
        let IpAddr::V4(address) = peer.to_canonical() else { return Err(silence()) };
        match self.owner_of(address) {
            Some((machine, true)) => Ok(machine.node.clone()),
            _ => Err(silence()),
        }
    }

    fn metadata(&mut self, request: &Request, node: &str) -> Answer {
        if request.method != "GET" {
            return bad(405, "Method Not Allowed");
        }
        if request.header("metadata").is_none_or(|value| !value.eq_ignore_ascii_case("true")) {
            return bad(400, "Bad request. Required metadata header not specified");
        }
        if request.header("x-forwarded-for").is_some() {
            return bad(400, "Bad request. X-Forwarded-For header is not allowed");
        }
        let mut names: Vec<String> = request.query.iter().map(|(name, _)| name.to_lowercase()).collect();
        names.sort();
        if names.windows(2).any(|pair| pair.first() == pair.last()) {
            return bad(400, "Bad request. Duplicate query parameter");
        }
        if !self.within_rate(node) {
            return too_many();
        }
        let path = request.path.trim_end_matches('/').to_lowercase();
        if path == "/metadata/versions" {
            return Answer::json(200, json!({ "apiVersions": VERSIONS }));
        }
        if !request.query("api-version").is_some_and(|version| VERSIONS.contains(&version)) {
            let error =
                "Bad request. api-version is invalid or was not specified in the request. For more information refer to aka.ms/azureimds";
            let newest: Vec<&str> = VERSIONS.iter().rev().take(3).copied().collect();
            return Answer::json(400, json!({ "error": error, "newest-versions": newest }));
        }
        match path.strip_prefix("/metadata/") {
            Some("identity/oauth2/token") => self.machine_token(request),
            Some("identity/info") => Answer::json(200, json!({ "tenantId": self.directory.tenant })),
            Some(rest) if rest == "instance" || rest.starts_with("instance/") => {
                let walk = request.path.split('/').filter(|part| !part.is_empty()).skip(2);
                self.instance_metadata(node, walk, request.query("format"))
            }
            _ => bad(404, "Not found"),
        }
    }

    fn instance_metadata<'a>(&self, node: &str, walk: impl Iterator<Item = &'a str>, format: Option<&str>) -> Answer {
        let Some(machine) = self.machine_of(node) else { return bad(404, "Not found") };
        let document = json!({ "compute": Self::compute_metadata(machine), "network": self.network_metadata(machine) });
        let mut value = &document;
        for part in walk {
            let next = match part.parse::<usize>() {
                Ok(index) => value.get(index),
                Err(_) => value
                    .as_object()
                    .and_then(|members| members.iter().find(|(name, _)| name.eq_ignore_ascii_case(part)).map(|(_, value)| value)),
            };
            let Some(next) = next else { return bad(404, "Not found") };
            value = next;
        }
        match (value, format) {
            (Value::String(text), Some("text")) => Answer::text(200, "text/plain; charset=utf-8", text.clone()),
            (Value::String(_), _) => bad(404, "The requested element is a leaf: ask for format=text"),
            (value, _) => Answer::json(200, value.clone()),
        }
    }

    fn compute_metadata(machine: &Machine) -> Value {
        let (subscription, group) = (subscription_of(&machine.id), machine.id.split('/').nth(4).unwrap_or_default());
        let (name, uniform, flexible) = match &machine.shape {
            Shape::Vm { scale_set } => (last(&machine.id).to_owned(), String::new(), scale_set.clone()),
            Shape::Instance { scale_set, number, .. } => (format!("{}_{number}", last(scale_set)), last(scale_set).to_owned(), None),
        };
        let set_name = flexible.as_deref().map_or(uniform, |id| last(id).to_owned());
        let tags = machine.tags.iter().map(|(name, value)| (name, value.as_str().unwrap_or_default()));
        let list: Vec<Value> = tags.clone().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        json!({
            "azEnvironment": "AzurePublicCloud", "customData": "", "evictionPolicy": "", "isHostCompatibilityLayerVm": "false", "licenseType": "",
            "location": machine.location, "name": name, "offer": "",
            "osProfile": { "adminUsername": "azureuser", "computerName": machine.node, "disablePasswordAuthentication": "true" },
            "osType": "Linux", "placementGroupId": "", "plan": { "name": "", "product": "", "publisher": "" }, "platformFaultDomain": "0",
            "platformUpdateDomain": "0", "priority": "", "provider": "Microsoft.Compute", "publicKeys": [], "publisher": "",
            "resourceGroupName": group, "resourceId": machine.id, "sku": "",
            "securityProfile": { "secureBootEnabled": "false", "virtualTpmEnabled": "false" }, "subscriptionId": subscription,
            "tags": tags.map(|(name, value)| format!("{name}:{value}")).collect::<Vec<_>>().join(";"), "tagsList": list, "userData": "",
            "version": "", "virtualMachineScaleSet": { "id": flexible.unwrap_or_default() }, "vmId": machine.vm_id, "vmScaleSetName": set_name,
            "vmSize": machine.size, "zone": "",
        })
    }

    fn network_metadata(&self, machine: &Machine) -> Value {
        let interface = |nic: &Nic| {
            let addresses: Vec<Value> =
                in_order(nic).map(|address| json!({ "privateIpAddress": address, "publicIpAddress": "" })).collect();
            let subnets: Vec<Value> =
                self.prefixes_of(nic).iter().map(|(net, prefix)| json!({ "address": net, "prefix": prefix })).collect();
            json!({
                "ipv4": { "ipAddress": addresses, "subnet": subnets }, "ipv6": { "ipAddress": [] },
                "macAddress": nic.mac.map(super::fabric::Mac::bare).unwrap_or_default(),
            })
        };
        json!({ "interface": self.nics_of(machine).map(interface).collect::<Vec<_>>() })
    }

    fn machine_token(&mut self, request: &Request) -> Answer {
        let refuse = |description: &str| {
            let body = json!({ "error": "invalid_request", "error_description": description });
            Answer { code: Some("invalid_request".into()), ..Answer::json(400, body) }
        };
        let Some(resource) = request.query("resource").map(str::to_owned) else {
            return refuse("Required query variable 'resource' is missing");
        };
        let identities = &self.directory.machine_identities;
        let client = match (request.query("client_id"), identities.as_slice()) {
            (Some(asked), known) if known.iter().any(|identity| identity == asked) => asked.to_owned(),
            (Some(_), _) | (None, []) => return refuse("Identity not found"),
            (None, [only]) => only.clone(),
            (None, _) => {
                return refuse(
                    "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request",
                );
            }
        };
        let lifetime = i64::try_from(self.settings.token_seconds).unwrap_or(i64::MAX);
        let now = self.unix();
        let token = self.issue(&client);
        Answer::json(
            200,
            json!({
                "access_token": token, "client_id": client, "expires_in": lifetime.to_string(), "ext_expires_in": lifetime.to_string(),
                "expires_on": now.saturating_add(lifetime).to_string(), "not_before": now.to_string(), "resource": resource, "token_type": "Bearer",
            }),
        )
    }

    fn interface_info(&self, request: &Request, node: &str) -> Answer {
        let xml = |status, text: String| Answer::text(status, "text/xml; charset=utf-8", text);
        let known = request.path == "/machine/plugins" && request.query("comp").is_some_and(|comp| comp.eq_ignore_ascii_case("nmagent"));
        let kind = request.query("type").unwrap_or_default().to_lowercase();
        match (known, kind.as_str(), self.machine_of(node)) {
            (true, "getinterfaceinfov1", Some(machine)) => xml(200, self.interfaces_xml(machine)),
            (true, "getsupportedapis", Some(_)) => {
                let types = "<type>GetSupportedApis</type><type>GetInterfaceInfoV1</type>";
                xml(200, format!("<SupportedRequestTypes>{types}</SupportedRequestTypes>"))
            }
            _ => {
                let message = "The server encountered an internal error. Please retry the request.";
                xml(500, format!("<Error><Code>InternalError</Code><Message>{message}</Message><Details></Details></Error>"))
            }
        }
    }

    fn interfaces_xml(&self, machine: &Machine) -> String {
        let mut xml = String::from("<Interfaces>");
        for (index, nic) in self.nics_of(machine).enumerate() {
            let mac = nic.mac.map(super::fabric::Mac::bare).unwrap_or_default();
            // A String takes any text.
            let _ = write!(xml, "<Interface MacAddress=\"{mac}\" IsPrimary=\"{}\">", index == 0);
            let primary = nic.primary().and_then(|primary| primary.address);
            for prefix in self.subnet_of(nic).map(|subnet| subnet.prefixes.as_slice()).unwrap_or_default() {
                let _ = writeln!(xml, "<IPSubnet Prefix=\"{prefix}\">");
                for address in in_order(nic).filter(|address| prefix.contains(address)) {
                    let _ = writeln!(xml, "<IPAddress Address=\"{address}\" IsPrimary=\"{}\"/>", primary == Some(address));
                }
                xml.push_str("</IPSubnet>");
            }
            xml.push_str("</Interface>");
        }
        xml.push_str("</Interfaces>");
        xml
    }

    fn nics_of<'a>(&'a self, machine: &'a Machine) -> impl Iterator<Item = &'a Nic> {
        machine.nics.iter().filter_map(|key| self.nics.get(key))
    }

    fn subnet_of(&self, nic: &Nic) -> Option<&Subnet> {
        self.subnet(&nic.primary()?.subnet)
    }

    fn prefixes_of(&self, nic: &Nic) -> Vec<(String, String)> {
        let prefixes = self.subnet_of(nic).map(|subnet| subnet.prefixes.as_slice()).unwrap_or_default();
        prefixes.iter().map(|prefix| (prefix.network().to_string(), prefix.prefix_len().to_string())).collect()
    }

    fn within_rate(&mut self, node: &str) -> bool {
        let Some(limit) = self.settings.imds_per_second else { return true };
        let second = self.now.as_secs();
        let (at, count) = self.rates.entry(node.to_owned()).or_insert((second, 0));
        if *at != second {
            (*at, *count) = (second, 0);
        }
        *count = count.saturating_add(1);
        *count <= limit
    }
}

/// The primary address first, then the others as they appeared.
fn in_order(nic: &Nic) -> impl Iterator<Item = Ipv4Addr> + '_ {
    let primary = nic.primary().and_then(|primary| primary.address);
    primary.into_iter().chain(nic.shown.iter().copied().filter(move |address| Some(*address) != primary))
}

fn bad(status: u16, text: &str) -> Answer {
    Answer { code: Some(text.into()), ..Answer::json(status, json!({ "error": text })) }
}

fn too_many() -> Answer {
    bad(429, "Too many requests")
}

/// Tags as JSON.
pub(super) fn tag_map(tags: &BTreeMap<String, String>) -> Map<String, Value> {
    tags.iter().map(|(name, value)| (name.clone(), json!(value))).collect()
}
