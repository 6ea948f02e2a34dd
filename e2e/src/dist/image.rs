//! `cargo xtask image`: builds the Dockerfile on this machine, and holds what comes of it against the image that the lab runs.

#![expect(clippy::indexing_slicing, reason = "a JSON value read by key is null where the key is missing; it never panics")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::build::{Cache, Entry, Image, Layout, Operator, Store, operator_image, product, require_packages};

/// Each program of the image, and what tells that it ran. A plugin without arguments is asked for its versions.
const PROGRAMS: &[(&[&str], &str)] = &[
    (&["/usr/bin/azure-vnet-operator", "--version"], env!("CARGO_PKG_VERSION")),
    (&["/usr/bin/kubectl-azure_vnet", "--help"], "kubectl azure-vnet"),
    (&["/opt/azure-vnet/bin/azure-vnet"], "supportedVersions"),
    (&["/opt/azure-vnet/bin/azure-vnet-ipam"], "supportedVersions"),
    (&["/opt/azure-vnet/bin/portmap"], "supportedVersions"),
    (&["/opt/azure-vnet/bin/bandwidth"], "supportedVersions"),
    (&["/opt/azure-vnet/bin/tuning"], "supportedVersions"),
    (&["/opt/azure-vnet/bin/loopback"], "supportedVersions"),
    (&["/usr/sbin/iptables-nft", "--version"], "nf_tables"),
    (&["/usr/sbin/ip6tables-legacy", "--version"], "legacy"),
];

/// Builds, compares, and runs each program of the image once.
///
/// # Errors
/// If the image cannot be built, is another than the lab's, or does not run.
pub fn run() -> Result<()> {
    require_packages()?;
    let cache = Cache::open()?;
    let of_lab = operator_image(&cache, &product(&cache, Operator::Quick)?)?.with_file_name("rootfs");
    let lab = Image::new("", &[], &[]).tree(&of_lab)?.entries;
    let begun = Instant::now();
    let store = Store::open(&cache)?;
    let Layout { entries: built, config } = store.build(&cache)?;
    let differences = differences(&lab, &built);
    ensure!(differences.is_empty(), "the built image is not the lab's:\n{}", differences.join("\n"));
    is_bare(&built)?;
    is_described(&config)?;
    let words: Vec<&[&str]> = PROGRAMS.iter().map(|(words, _)| *words).collect();
    for ((words, expected), printed) in PROGRAMS.iter().zip(store.run(&words)?) {
        ensure!(printed.contains(expected), "{words:?} printed: {printed}");
    }
    tell(&lab, &built, begun)
}

fn tell(lab: &BTreeMap<String, Entry>, built: &BTreeMap<String, Entry>, begun: Instant) -> Result<()> {
    let mut out = std::io::stdout();
    let bytes: usize = built.values().filter_map(content).map(<[u8]>::len).sum();
    let others: Vec<&str> =
        built.iter().filter(|(path, entry)| content(entry) != lab.get(*path).and_then(content)).map(|(path, _)| path.as_str()).collect();
    writeln!(out, "{} paths, the same as in the lab's image; {} MB", built.len(), bytes / 1_000_000)?;
    writeln!(out, "of other bytes, by other compilers or releases: {}", others.join(" "))?;
    writeln!(out, "{} programs ran in it", PROGRAMS.len())?;
    Ok(writeln!(out, "built and looked at in {:.0} s", begun.elapsed().as_secs_f64())?)
}

/// What is not the same in both. Compilers, and releases of packages, may differ, and so the bytes of programs and libraries; what the script writes by
/// itself may not.
fn differences(lab: &BTreeMap<String, Entry>, built: &BTreeMap<String, Entry>) -> Vec<String> {
    let paths = lab.keys().chain(built.keys().filter(|path| !lab.contains_key(*path)));
    let compare = |path: &String| match (lab.get(path), built.get(path)) {
        (Some(lab), Some(built)) if shape(lab) != shape(built) => {
            Some(format!("{path} is {}, and {} in the lab", shape(built), shape(lab)))
        }
        (Some(lab), Some(built)) if path.starts_with("etc/") && content(lab) != content(built) => {
            Some(format!("{path} reads otherwise in the lab"))
        }
        (Some(_), Some(_)) | (None, None) => None,
        (Some(_), None) => Some(format!("{path} is missing")),
        (None, Some(_)) => Some(format!("{path} is not in the lab's")),
    };
    paths.filter_map(compare).collect()
}

fn shape(entry: &Entry) -> String {
    match entry {
        Entry::File { mode, .. } => format!("a file of mode {mode:o}"),
        Entry::Link(target) => format!("a link to {target}"),
        Entry::Folder(mode) => format!("a folder of mode {mode:o}"),
    }
}

fn content(entry: &Entry) -> Option<&[u8]> {
    match entry {
        Entry::File { content, .. } => Some(content),
        Entry::Link(_) | Entry::Folder(_) => None,
    }
}

/// Nothing in it starts a shell, or installs anything.
fn is_bare(image: &BTreeMap<String, Entry>) -> Result<()> {
    const UNWANTED: &[&str] = &["sh", "bash", "dash", "ash", "busybox", "apt", "apt-get", "dpkg", "perl", "python3"];
    let found: Vec<&String> = image.keys().filter(|path| UNWANTED.contains(&path.rsplit('/').next().unwrap_or_default())).collect();
    ensure!(found.is_empty(), "the image has {found:?}");
    Ok(())
}

/// The entry point is the operator, which user it runs as is the chart's matter, and whoever finds the image learns what it is.
fn is_described(config: &Value) -> Result<()> {
    let entry = &config["Entrypoint"];
    ensure!(*entry == serde_json::json!(["/usr/bin/azure-vnet-operator"]), "the entry point is {entry}");
    ensure!(
        config["Cmd"].is_null() && config["User"].as_str().unwrap_or_default().is_empty(),
        "the image has a command or a user: {config}"
    );
    let environment = config["Env"].as_array().context("the image has no environment")?;
    ensure!(environment.iter().any(|variable| variable == "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"), "{environment:?}");
    for label in ["title", "description", "licenses"] {
        let label = format!("org.opencontainers.image.{label}");
        config["Labels"][&label].as_str().with_context(|| format!("the image has no label {label}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_another_by_path_mode_link_or_configuration_and_not_by_a_compilers_bytes() {
        let file = |mode: u32, content: &[u8]| Entry::File { mode, content: content.to_vec() };
        let lab = BTreeMap::from([
            ("a".to_owned(), file(0o755, b"1")),
            ("b".into(), Entry::Link("a".into())),
            ("c".into(), Entry::Folder(0o755)),
            ("etc/passwd".into(), file(0o644, b"root")),
        ]);
        let mut built = lab.clone();
        built.insert("a".into(), file(0o755, b"2"));
        assert_eq!(differences(&lab, &built), [""; 0]);
        built.insert("a".into(), file(0o700, b"1"));
        built.insert("b".into(), Entry::Link("c".into()));
        built.insert("bin/sh".into(), file(0o755, b""));
        built.insert("etc/passwd".into(), file(0o644, b"user"));
        built.remove("c");
        let told = [
            "a is a file of mode 700, and a file of mode 755 in the lab",
            "b is a link to c, and a link to a in the lab",
            "c is missing",
            "etc/passwd reads otherwise in the lab",
            "bin/sh is not in the lab's",
        ];
        assert_eq!(differences(&lab, &built), told);
        assert!(is_bare(&lab).is_ok() && is_bare(&built).is_err());
    }
}
