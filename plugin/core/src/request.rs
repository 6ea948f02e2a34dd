//! A command of the CNI protocol: environment and standard input, parsed once into what each command has.

use serde_json::Value;

use crate::{
    attachment::{Attachment, NetnsPath, PodRef},
    conf::{Ipam, Leniently, NetConf, NodeConf, Role, StatusConf},
    error::{CniError, Code},
    json::Object,
    version::CniVersion,
};

/// The variables of the protocol, as the process found them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: Option<String>,
    /// `CNI_CONTAINERID`.
    pub container_id: Option<String>,
    /// `CNI_NETNS`.
    pub netns: Option<String>,
    /// `CNI_IFNAME`.
    pub if_name: Option<String>,
    /// `CNI_ARGS`.
    pub args: Option<String>,
    /// `CNI_PATH`.
    pub path: Option<String>,
}

/// The longest configuration that is read, in bytes. A GC that names ten thousand attachments is not longer.
pub const MOST_BYTES: usize = 1 << 20;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Attach a container.
    Add(Box<Add>),
    /// Detach it.
    Del(Del),
    /// Is it attached as it was?
    Check(Box<Add>),
    /// Free what no one has.
    Gc(NodeConf),
    /// Could ADD succeed?
    Status(StatusConf),
    /// Which versions?
    Version(CniVersion),
}

/// A container to be attached or looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// Container and interface.
    pub attachment: Attachment,
    /// Its namespace.
    pub netns: NetnsPath,
    /// Its pod, where the runtime names one.
    pub pod: Option<PodRef>,
    /// The configuration.
    pub conf: NetConf,
}

/// A container to be detached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Del {
    /// Container and interface.
    pub attachment: Attachment,
    /// What could be read of the configuration.
    pub conf: Leniently,
}

/// An answer together with the version that the caller understands.
pub type Failure = (CniVersion, CniError);

impl Request {
    /// Reads a command.
    ///
    /// # Errors
    /// A variable or field is missing or malformed, or the configuration is longer than [`MOST_BYTES`].
    pub fn parse(environment: &Environment, stdin: &[u8], role: Role) -> Result<Self, Failure> {
        let decoded = decode(stdin);
        let lenient = decoded.as_ref().map_or(Leniently { version: CniVersion::UNSTATED, delegate: None }, Leniently::parse);
        let version = lenient.version;
        let fail = |error| (version, error);
        let command = required(environment.command.as_deref(), "CNI_COMMAND").map_err(fail)?;
        if command == "VERSION" {
            let stated = decoded.is_ok_and(|value| value.get("cniVersion").is_some());
            return Ok(Self::Version(if stated { version } else { CniVersion::NEWEST }));
        }
        decoded.and_then(|conf| Self::parse_command(command, environment, &conf, lenient, role)).map_err(fail)
    }

    fn parse_command(command: &str, environment: &Environment, conf: &Value, lenient: Leniently, role: Role) -> Result<Self, CniError> {
        match command {
            "ADD" => Ok(Self::Add(Box::new(Add::parse(environment, conf, role)?))),
            "CHECK" => {
                let add = Add::parse(environment, conf, role)?;
                has(command, add.conf.version, CniVersion::has_check)?;
                Ok(Self::Check(Box::new(add)))
            }
            "DEL" => Ok(Self::Del(Del { attachment: attachment(environment)?, conf: lenient })),
            "GC" => {
                let conf = NodeConf::parse(conf)?;
                has(command, conf.version, CniVersion::has_gc_and_status)?;
                Ok(Self::Gc(conf))
            }
            "STATUS" => {
                has(command, lenient.version, CniVersion::has_gc_and_status)?;
                Ok(Self::Status(StatusConf::parse(conf, role)?))
            }
            other => Err(CniError::new(Code::InvalidEnvironment, format!("CNI_COMMAND {other:?} is unknown"))
                .with_details("the commands are ADD, CHECK, DEL, GC, STATUS and VERSION")),
        }
    }
}

impl Add {
    fn parse(environment: &Environment, conf: &Value, role: Role) -> Result<Self, CniError> {
        let mut net = NetConf::parse(conf, role)?;
        let attachment = attachment(environment)?;
        let netns = required(environment.netns.as_deref(), "CNI_NETNS")?.parse().map_err(|error| malformed("CNI_NETNS", &error))?;
        let arguments = Arguments::parse(environment)?;
        if let (Ipam::Own(own), Some(address), Some(whole)) = (&mut net.ipam, arguments.address, Object::of(conf)) {
            own.asked_by_arguments(address, whole)?;
        }
        Ok(Self { attachment, netns, pod: arguments.pod()?, conf: net })
    }
}

fn decode(stdin: &[u8]) -> Result<Value, CniError> {
    if stdin.len() > MOST_BYTES {
        let why = format!("the network configuration is longer than {} KiB", MOST_BYTES >> 10);
        return Err(CniError::new(Code::Decode, why).with_details("see what the runtime writes to the plugin's standard input"));
    }
    serde_json::from_slice(stdin).map_err(|error| CniError::new(Code::Decode, format!("the network configuration is no JSON: {error}")))
}

fn attachment(environment: &Environment) -> Result<Attachment, CniError> {
    let container = required(environment.container_id.as_deref(), "CNI_CONTAINERID")?;
    let if_name = required(environment.if_name.as_deref(), "CNI_IFNAME")?;
    Ok(Attachment {
        container: container.parse().map_err(|error| malformed("CNI_CONTAINERID", &error))?,
        if_name: if_name.parse().map_err(|error| malformed("CNI_IFNAME", &error))?,
    })
}

/// What is read of `CNI_ARGS`. Keys that are not asked for are the runtime's business.
#[derive(Clone, Copy, Debug, Default)]
struct Arguments<'a> {
    namespace: Option<&'a str>,
    name: Option<&'a str>,
    uid: Option<&'a str>,
    address: Option<&'a str>,
}

impl<'a> Arguments<'a> {
    fn parse(environment: &'a Environment) -> Result<Self, CniError> {
        let mut arguments = Self::default();
        for pair in environment.args.as_deref().unwrap_or_default().split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(CniError::new(Code::InvalidEnvironment, format!("CNI_ARGS: {pair:?} is not of the form KEY=VALUE")));
            };
            let place = match key {
                "K8S_POD_NAMESPACE" => &mut arguments.namespace,
                "K8S_POD_NAME" => &mut arguments.name,
                "K8S_POD_UID" => &mut arguments.uid,
                "IP" => &mut arguments.address,
                _ => continue,
            };
            *place = Some(value).filter(|value| !value.is_empty());
        }
        Ok(arguments)
    }

    /// The pod, where it is named.
    fn pod(self) -> Result<Option<PodRef>, CniError> {
        let (Some(namespace), Some(name)) = (self.namespace, self.name) else { return Ok(None) };
        let uid = self.uid.map(str::parse).transpose().map_err(|error| malformed("CNI_ARGS", &error))?;
        Ok(Some(PodRef { namespace: namespace.to_owned(), name: name.to_owned(), uid }))
    }
}

fn required<'a>(value: Option<&'a str>, name: &str) -> Result<&'a str, CniError> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| CniError::new(Code::InvalidEnvironment, format!("required env variables [{name}] missing")))
}

fn malformed(name: &str, error: &dyn std::error::Error) -> CniError {
    CniError::new(Code::InvalidEnvironment, format!("{name}: {error}"))
}

fn has(command: &str, version: CniVersion, has: fn(CniVersion) -> bool) -> Result<(), CniError> {
    if has(version) {
        return Ok(());
    }
    Err(CniError::new(Code::IncompatibleVersion, format!("config version {version} does not allow {command}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str =
        r#"{"cniVersion":"1.1.0","name":"azure","type":"azure-vnet","mode":"transparent","ipam":{"type":"azure-vnet-ipam"}}"#;

    fn environment(command: &str) -> Environment {
        Environment {
            command: Some(command.into()),
            container_id: Some("abc".into()),
            netns: Some("/run/netns/a".into()),
            if_name: Some("eth0".into()),
            args: Some("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u-1;OTHER=2".into()),
            path: Some("/opt/cni/bin".into()),
        }
    }

    #[test]
    fn each_command_has_what_it_needs() {
        let parse = |command| Request::parse(&environment(command), CONF.as_bytes(), Role::Network).unwrap();
        let Request::Add(add) = parse("ADD") else { panic!("not ADD") };
        assert_eq!(add.pod, Some(PodRef { namespace: "default".into(), name: "web-0".into(), uid: Some("u-1".parse().unwrap()) }));
        assert_eq!(parse("CHECK"), Request::Check(add.clone()));
        let conf = Leniently { version: CniVersion::V1_1_0, delegate: None };
        assert_eq!(parse("DEL"), Request::Del(Del { attachment: add.attachment, conf }));
        assert!(matches!(parse("GC"), Request::Gc(_)));
        assert!(matches!(parse("STATUS"), Request::Status(_)));
        assert_eq!(parse("VERSION"), Request::Version(CniVersion::V1_1_0));
    }

    #[test]
    fn what_is_missing_is_named() {
        let fail = |change: fn(&mut Environment), conf: &str| {
            let mut environment = environment("ADD");
            change(&mut environment);
            let (_, error) = Request::parse(&environment, conf.as_bytes(), Role::Network).unwrap_err();
            (error.code.number(), error.msg)
        };
        assert_eq!(fail(|e| e.command = None, CONF), (4, "required env variables [CNI_COMMAND] missing".into()));
        assert_eq!(fail(|e| e.container_id = None, CONF), (4, "required env variables [CNI_CONTAINERID] missing".into()));
        assert_eq!(fail(|e| e.netns = Some(String::new()), CONF), (4, "required env variables [CNI_NETNS] missing".into()));
        assert_eq!(fail(|e| e.if_name = Some("a/b".into()), CONF).0, 4);
        assert_eq!(fail(|e| e.args = Some("x".into()), CONF).0, 4);
        assert_eq!(fail(|e| e.command = Some("UPDATE".into()), CONF).0, 4);
        assert_eq!(fail(|_| (), "{").0, 6);
        assert_eq!(fail(|_| (), &format!("{CONF}{}", " ".repeat(MOST_BYTES))).0, 6);
        assert_eq!(fail(|e| e.command = Some("GC".into()), &CONF.replace("1.1.0", "1.0.0")).0, 1);
        assert_eq!(fail(|e| e.command = Some("CHECK".into()), &CONF.replace("1.1.0", "0.3.1")).0, 1);
    }

    #[test]
    fn del_needs_neither_namespace_nor_a_good_configuration() {
        let mut environment = environment("DEL");
        (environment.netns, environment.args) = (None, Some("garbage".into()));
        let request = Request::parse(&environment, br#"{"cniVersion":"1.0.0","mode":"nonsense","ipam":7}"#, Role::Network);
        assert!(matches!(request, Ok(Request::Del(_))), "{request:?}");
    }

    #[test]
    fn a_configuration_may_be_as_long_as_a_gc_of_ten_thousand_attachments() {
        let ids = (0..10_000).map(|number| format!(r#"{{"containerID":"{number:064x}","ifname":"eth0"}}"#)).collect::<Vec<_>>().join(",");
        let conf = format!(r#"{},"cni.dev/valid-attachments":[{ids}]}}"#, CONF.strip_suffix('}').unwrap());
        let Ok(Request::Gc(gc)) = Request::parse(&environment("GC"), conf.as_bytes(), Role::Network) else { panic!("not GC") };
        assert_eq!(gc.valid.len(), 10_000);
    }

    #[test]
    fn an_error_speaks_the_callers_version() {
        let (version, _) =
            Request::parse(&environment("ADD"), CONF.replace("transparent", "transparent-vlan").as_bytes(), Role::Network).unwrap_err();
        assert_eq!(version, CniVersion::V1_1_0);
    }
}
