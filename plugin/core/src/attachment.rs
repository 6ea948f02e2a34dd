//! What a pod's network is attached by: container, interface, pod, network, and the names of links and namespaces.
//! Each type is checked once, where it is parsed; none of them touches the system.

use std::{fmt, str::FromStr};

use sha1_smol::Sha1;

use crate::hex;

/// Why a text is none of the names of this module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct NameError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl NameError {
    pub(crate) fn of(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, text: text.to_owned(), rule }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.to_owned())) } else { Err(NameError::of($what, text, $rule)) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// `CNI_CONTAINERID`: starts alphanumeric, then alphanumerics, `_`, `.` and `-`.
    ContainerId,
    "container id",
    "it starts with a letter or digit and goes on with letters, digits, '_', '.' and '-', 128 characters at most",
    |text| text.len() <= 128 && is_cni_name(text)
);
name!(
    /// A link's name as the kernel takes it: 1 to 15 bytes without `/`, `:` and white space, neither `.` nor `..`.
    IfName,
    "interface name",
    "it has 1 to 15 bytes without '/', ':' and white space, and is neither '.' nor '..'",
    |text| (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace())
);
name!(
    /// `name` of a network configuration: starts alphanumeric, then alphanumerics, `_`, `.` and `-`.
    NetworkName,
    "network name",
    "it starts with a letter or digit and goes on with letters, digits, '_', '.' and '-', 128 characters at most",
    |text| text.len() <= 128 && is_cni_name(text)
);
name!(
    /// Path of a network namespace; never empty and without NUL.
    NetnsPath,
    "namespace path",
    "it has 1 to 1024 bytes without NUL",
    |text| (1..=1024).contains(&text.len()) && !text.contains('\0')
);
name!(
    /// UID of a Kubernetes object as far as it can name a file: letters, digits, `_`, `.` and `-`.
    PodUid,
    "pod UID",
    "it starts with a letter or digit and goes on with letters, digits, '_', '.' and '-', 128 characters at most",
    |text| text.len() <= 128 && is_cni_name(text)
);

fn is_cni_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// What a lease belongs to (safety rule ST10).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container: ContainerId,
    /// `CNI_IFNAME`.
    pub if_name: IfName,
}

impl Attachment {
    /// Names the attachment in `by/`.
    #[must_use]
    pub fn hash(&self) -> AttachmentHash {
        let mut sha1 = Sha1::new();
        sha1.update(self.container.as_str().as_bytes());
        sha1.update(&[0]);
        sha1.update(self.if_name.as_str().as_bytes());
        AttachmentHash(sha1.digest().bytes())
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.if_name)
    }
}

/// SHA-1 of an [`Attachment`], written as 40 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentHash([u8; 20]);

impl fmt::Display for AttachmentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::of(&self.0))
    }
}

impl FromStr for AttachmentHash {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || NameError::of("attachment hash", text, "it has 40 lower-case hex digits");
        if text.len() != 40 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(error());
        }
        let mut bytes = [0; 20];
        for (byte, at) in bytes.iter_mut().zip((0..40).step_by(2)) {
            let pair = text.get(at..at + 2).ok_or_else(error)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

/// The pod that an attachment serves, as the runtime named it in `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodRef {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; older runtimes do not pass it.
    pub uid: Option<PodUid>,
}

impl PodRef {
    /// Whether both name the same pod: by UID where both know it, else by namespace and name.
    #[must_use]
    pub fn is_same_pod(&self, other: &Self) -> bool {
        match (&self.uid, &other.uid) {
            (Some(mine), Some(theirs)) => mine == theirs,
            (None, _) | (_, None) => self.namespace == other.namespace && self.name == other.name,
        }
    }
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// How a pod is wired to its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// A veth pair and a host route.
    Transparent,
    /// A bridge with the host's link in it.
    Bridge,
    /// As bridge, with traffic sent through the fabric.
    Tunnel,
}

impl Mode {
    /// The configuration's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transparent => "transparent",
            Self::Bridge => "bridge",
            Self::Tunnel => "tunnel",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "transparent" => Ok(Self::Transparent),
            "bridge" | "l2bridge" => Ok(Self::Bridge),
            "tunnel" | "l2tunnel" => Ok(Self::Tunnel),
            _ => Err(NameError::of("mode", text, "it is transparent, bridge or tunnel")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_is_named_by_both_its_parts() {
        let attachment =
            |container: &str, if_name: &str| Attachment { container: container.parse().unwrap(), if_name: if_name.parse().unwrap() };
        let hashes: std::collections::BTreeSet<_> =
            [attachment("ab", "c"), attachment("a", "bc"), attachment("a", "b")].iter().map(Attachment::hash).collect();
        assert_eq!(hashes.len(), 3);
        for hash in hashes {
            assert_eq!(hash.to_string().parse(), Ok(hash));
        }
    }

    #[test]
    fn hostile_names_are_refused() {
        for text in ["", ".", "..", "../x", "a/b", "-a", "a b", "a\0", "é"] {
            assert!(text.parse::<ContainerId>().is_err(), "{text:?}");
            assert!(text.parse::<PodUid>().is_err(), "{text:?}");
        }
        for text in ["", ".", "..", "a/b", "a:b", "a b", "a\n", "sixteen-bytes-xx"] {
            assert!(text.parse::<IfName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_pod_is_known_by_its_uid_where_both_sides_have_one() {
        let pod =
            |name: &str, uid: Option<&str>| PodRef { namespace: "ns".into(), name: name.into(), uid: uid.map(|u| u.parse().unwrap()) };
        assert!(pod("a", Some("1")).is_same_pod(&pod("a", None)));
        assert!(!pod("a", Some("1")).is_same_pod(&pod("a", Some("2"))));
        assert!(!pod("a", None).is_same_pod(&pod("b", None)));
    }
}
