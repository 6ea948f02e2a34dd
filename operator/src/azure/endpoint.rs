//! Where Azure is: public cloud, a sovereign one, Azure Stack, or an emulator.
//! Nothing is asked here; who knows the machine's `azEnvironment` passes it in.

use std::{net::IpAddr, path::PathBuf};

use reqwest::Url;

/// What the user set; all of it optional.
#[derive(Clone, Debug, Default)]
pub struct EndpointOptions {
    /// Azure Resource Manager.
    pub arm: Option<String>,
    /// Whom tokens for it are asked for; the endpoint itself when unset.
    pub audience: Option<String>,
    /// Microsoft Entra ID.
    pub authority: Option<String>,
    /// Instance metadata service.
    pub imds: Option<String>,
    /// The host agent.
    pub wireserver: Option<String>,
    /// Whether `http://` may leave the machine.
    pub insecure_arm: bool,
    /// Certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// Every endpoint, parsed and checked.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Azure Resource Manager, without a trailing slash in its path.
    pub arm: Url,
    /// Whom tokens for it are asked for.
    pub audience: String,
    /// Microsoft Entra ID, or an AD FS, whose path is [`AD_FS`].
    pub authority: Url,
    /// Instance metadata service.
    pub imds: Url,
    /// The host agent.
    pub wireserver: Url,
    /// Certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// The path of an Active Directory Federation Service, which gives out the tokens of an Azure Stack that is not connected.
pub const AD_FS: &str = "/adfs";

/// Why an endpoint is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// No URL, or one that is more than scheme, host and port.
    #[error("{flag} {value:?} is not an http(s) URL of scheme, host and optional port, as in https://management.azure.com")]
    Malformed {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
    },
    /// Would send tokens in the clear.
    #[error("{flag} {value:?} would send credentials unencrypted: use https://, a loopback address, or --insecure-arm")]
    Insecure {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
    },
}

/// A cloud that Microsoft or a partner runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// `AzurePublicCloud`.
    Public,
    /// `AzureUSGovernmentCloud`.
    UsGovernment,
    /// `AzureChinaCloud`.
    China,
}

impl Cloud {
    /// Reads IMDS's `azEnvironment`, whose case varies.
    #[must_use]
    pub fn from_environment(name: &str) -> Option<Self> {
        let is = |cloud: &str| name.eq_ignore_ascii_case(cloud);
        match () {
            () if is("AzurePublicCloud") || is("AzureCloud") => Some(Self::Public),
            () if is("AzureUSGovernmentCloud") || is("AzureUSGovernment") => Some(Self::UsGovernment),
            () if is("AzureChinaCloud") => Some(Self::China),
            () => None,
        }
    }

    /// Reads the cloud off the host that gives out its tokens.
    fn from_authority(url: &Url) -> Option<Self> {
        [Self::Public, Self::UsGovernment, Self::China]
            .into_iter()
            .find(|cloud| cloud.authority().strip_prefix("https://").is_some_and(|host| url.host_str() == Some(host)))
    }

    /// Its Resource Manager.
    #[must_use]
    pub fn arm(self) -> &'static str {
        match self {
            Self::Public => "https://management.azure.com",
            Self::UsGovernment => "https://management.usgovcloudapi.net",
            Self::China => "https://management.chinacloudapi.cn",
        }
    }

    /// Its token service.
    #[must_use]
    pub fn authority(self) -> &'static str {
        match self {
            Self::Public => "https://login.microsoftonline.com",
            Self::UsGovernment => "https://login.microsoftonline.us",
            Self::China => "https://login.chinacloudapi.cn",
        }
    }
}

impl EndpointOptions {
    /// Whether the cloud can be told only by asking the machine.
    #[must_use]
    pub fn needs_environment(&self) -> bool {
        self.arm.is_none() && self.authority.is_none()
    }

    /// Parses and completes the endpoints; `environment` is what IMDS calls the cloud, if it was asked.
    ///
    /// # Errors
    /// Names the flag that cannot be used.
    pub fn resolve(&self, environment: Option<&str>) -> Result<Endpoints, EndpointError> {
        let authority = self.authority.as_deref().map(|url| parse_authority("--authority-host", url)).transpose()?;
        let cloud = authority
            .as_ref()
            .and_then(Cloud::from_authority)
            .or_else(|| environment.and_then(Cloud::from_environment))
            .unwrap_or(Cloud::Public);
        let arm = parse("--arm-endpoint", self.arm.as_deref().unwrap_or(cloud.arm()))?;
        let authority = authority.map_or_else(|| parse("--authority-host", cloud.authority()), Ok)?;
        if !self.insecure_arm {
            confidential("--arm-endpoint", &arm)?;
            confidential("--authority-host", &authority)?;
        }
        Ok(Endpoints {
            audience: self.audience.clone().unwrap_or_else(|| arm.to_string()),
            arm,
            authority,
            imds: parse("--imds-endpoint", self.imds.as_deref().unwrap_or("http://169.254.169.254"))?,
            wireserver: parse("--wireserver-endpoint", self.wireserver.as_deref().unwrap_or("http://168.63.129.16"))?,
            ca_file: self.ca_file.clone(),
        })
    }
}

/// Accepts scheme, host and port, and a single trailing slash.
fn parse(flag: &'static str, value: &str) -> Result<Url, EndpointError> {
    let malformed = || EndpointError::Malformed { flag, value: value.to_owned() };
    let url = Url::parse(value).map_err(|_| malformed())?;
    let plain = url.has_host()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if plain && matches!(url.scheme(), "http" | "https") { Ok(url) } else { Err(malformed()) }
}

/// The same, or an AD FS: `https://adfs.local.azurestack.external/adfs`.
fn parse_authority(flag: &'static str, value: &str) -> Result<Url, EndpointError> {
    let Some(origin) = value.trim_end_matches('/').strip_suffix(AD_FS) else { return parse(flag, value) };
    let mut url = parse(flag, origin)?;
    url.set_path(AD_FS);
    Ok(url)
}

/// Refuses what would show a token to the network.
fn confidential(flag: &'static str, url: &Url) -> Result<(), EndpointError> {
    if url.scheme() == "https" || loopback(url) { Ok(()) } else { Err(EndpointError::Insecure { flag, value: url.to_string() }) }
}

/// Whether the host is this machine, by literal address: a name may resolve to anything.
fn loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) || host == "localhost"
}

/// Whether a URL that ARM handed out may be sent a token: ARM's own scheme and port, its host or one below it.
#[must_use]
pub fn trusted(arm: &Url, url: &Url) -> bool {
    let (Some(home), Some(host)) = (arm.host_str(), url.host_str()) else { return false };
    let below = host.strip_suffix(home).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    below && url.scheme() == arm.scheme() && url.port_or_known_default() == arm.port_or_known_default() && url.as_str().len() <= 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arm: &str) -> EndpointOptions {
        EndpointOptions { arm: Some(arm.to_owned()), ..EndpointOptions::default() }
    }

    #[test]
    fn public_azure_when_nothing_is_known() {
        let endpoints = EndpointOptions::default().resolve(None).unwrap();
        assert_eq!(endpoints.arm.as_str(), "https://management.azure.com/");
        assert_eq!(endpoints.audience, "https://management.azure.com/");
        assert_eq!(endpoints.authority.as_str(), "https://login.microsoftonline.com/");
        assert_eq!(endpoints.imds.as_str(), "http://169.254.169.254/");
    }

    #[test]
    fn the_machine_or_the_authority_names_a_sovereign_cloud() {
        let by_machine = EndpointOptions::default().resolve(Some("AZUREUSGOVERNMENTCLOUD")).unwrap();
        assert_eq!(by_machine.arm.as_str(), "https://management.usgovcloudapi.net/");
        let options = EndpointOptions { authority: Some("https://login.chinacloudapi.cn/".into()), ..EndpointOptions::default() };
        assert_eq!(options.resolve(None).unwrap().arm.as_str(), "https://management.chinacloudapi.cn/");
    }

    #[test]
    fn plain_http_only_to_loopback_or_when_said_so() {
        assert!(matches!(options("http://10.0.0.1").resolve(None), Err(EndpointError::Insecure { flag: "--arm-endpoint", .. })));
        assert!(matches!(options("http://loopback.example.com").resolve(None), Err(EndpointError::Insecure { .. })));
        for loopback in ["http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost:1"] {
            assert!(options(loopback).resolve(None).is_ok(), "{loopback}");
        }
        assert!(EndpointOptions { insecure_arm: true, ..options("http://10.0.0.1") }.resolve(None).is_ok());
        let authority = EndpointOptions { authority: Some("http://10.0.0.1".into()), ..EndpointOptions::default() };
        assert!(matches!(authority.resolve(None), Err(EndpointError::Insecure { flag: "--authority-host", .. })));
    }

    #[test]
    fn what_is_more_than_an_origin_is_refused() {
        for bad in ["", "management.azure.com", "ftp://x", "https://x/path", "https://x?y", "https://user:pw@x"] {
            assert!(matches!(options(bad).resolve(None), Err(EndpointError::Malformed { .. })), "{bad}");
        }
    }

    #[test]
    fn an_ad_fs_is_an_authority_with_its_path_and_nothing_else_has_one() {
        let authority = |url: &str| {
            let options =
                EndpointOptions { authority: Some(url.into()), arm: Some("https://management.local".into()), ..Default::default() };
            options.resolve(None).map(|endpoints| endpoints.authority.to_string())
        };
        for url in ["https://adfs.local/adfs", "https://adfs.local/adfs/"] {
            assert_eq!(authority(url).unwrap(), "https://adfs.local/adfs");
        }
        assert!(matches!(authority("https://adfs.local/other"), Err(EndpointError::Malformed { .. })));
        assert!(matches!(authority("http://adfs.local/adfs"), Err(EndpointError::Insecure { .. })));
        assert!(matches!(options("https://management.local/adfs").resolve(None), Err(EndpointError::Malformed { .. })));
    }

    #[test]
    fn tokens_go_to_arm_and_below_only() {
        let arm = Url::parse("https://management.azure.com").unwrap();
        let ok = |url: &str| trusted(&arm, &Url::parse(url).unwrap());
        assert!(ok("https://management.azure.com/subscriptions/1?x=y") && ok("https://westus.management.azure.com/op"));
        assert!(
            !ok("https://evilmanagement.azure.com/")
                && !ok("http://management.azure.com/")
                && !ok("https://management.azure.com:444/")
                && !ok("https://example.com/")
        );
    }
}
