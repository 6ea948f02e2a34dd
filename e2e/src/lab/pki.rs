//! Certificates and kubeconfigs of one lab: a CA, the API server, and one client for every component.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

use super::plan::{API_SERVER, SERVICE_OF_API};

/// The folder of one lab's certificates.
#[derive(Debug, Clone)]
pub struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// The folder, as it is or will be.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// A file of it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Issues everything anew.
    ///
    /// # Errors
    /// If a key cannot be made or a file cannot be written.
    pub fn issue(&self, nodes: &[&str]) -> Result<()> {
        self.issue_with(nodes, &[])
    }

    /// The same with more clients: file name, name and group of each.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn issue_with(&self, nodes: &[&str], more: &[(&str, &str, Option<&str>)]) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        let ca = self.authority()?;
        self.certificate(&ca, "apiserver", "kube-apiserver", None, Use::Server)?;
        let clients = [
            ("admin", "admin", Some("system:masters")),
            ("kcm", "system:kube-controller-manager", None),
            ("scheduler", "system:kube-scheduler", None),
            ("kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters")),
            ("proxy", "system:kube-proxy", None),
            ("front-proxy", "front-proxy-client", None),
        ];
        for (name, common, organization) in clients.iter().chain(more) {
            self.client(&ca, name, common, *organization)?;
        }
        for node in nodes {
            self.client(&ca, node, &format!("system:node:{node}"), Some("system:nodes"))?;
        }
        let accounts = KeyPair::generate()?;
        self.write("sa.key", &accounts.serialize_pem())?;
        self.write("sa.pub", &accounts.public_key_pem())
    }

    fn authority(&self) -> Result<Issuer<'static, KeyPair>> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "lab-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key)?;
        self.write("ca.crt", &certificate.pem())?;
        self.write("ca.key", &key.serialize_pem())?;
        Ok(Issuer::new(params, key))
    }

    fn client(&self, ca: &Issuer<'_, KeyPair>, name: &str, common: &str, organization: Option<&str>) -> Result<()> {
        self.certificate(ca, name, common, organization, Use::Client)?;
        self.kubeconfig(name)
    }

    fn certificate(&self, ca: &Issuer<'_, KeyPair>, name: &str, common: &str, organization: Option<&str>, usage: Use) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common);
        if let Some(organization) = organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match usage {
            Use::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Use::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        };
        if matches!(usage, Use::Server) {
            params.subject_alt_names = server_names()?;
        }
        let certificate = params.signed_by(&key, ca)?;
        self.write(&format!("{name}.crt"), &certificate.pem())?;
        self.write(&format!("{name}.key"), &key.serialize_pem())
    }

    /// A kubeconfig that names its files beside it, so that it is valid where the folder is mounted.
    fn kubeconfig(&self, name: &str) -> Result<()> {
        let text = format!(
            "\
apiVersion: v1
kind: Config
clusters: [{{name: lab, cluster: {{server: \"https://{API_SERVER}:6443\", certificate-authority: ca.crt}}}}]
users: [{{name: me, user: {{client-certificate: {name}.crt, client-key: {name}.key}}}}]
contexts: [{{name: lab, context: {{cluster: lab, user: me}}}}]
current-context: lab
"
        );
        self.write(&format!("{name}.kubeconfig"), &text)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.file(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

#[derive(Clone, Copy)]
enum Use {
    Client,
    Server,
}

fn server_names() -> Result<Vec<SanType>> {
    let mut names = vec![];
    for address in [API_SERVER, "127.0.0.1", SERVICE_OF_API] {
        names.push(SanType::IpAddress(address.parse::<IpAddr>()?));
    }
    for name in ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"] {
        names.push(SanType::DnsName(name.try_into()?));
    }
    Ok(names)
}
