//! `cargo xtask dist`: what is published: the plugins' archives with the CNI configuration, the operator's, their checksums, and the list of all
//! crates in them.
//! The same sources give the same archives, byte for byte but for the compiler's own doing.

pub mod image;
mod spdx;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::build::{Architecture, Cache, Operator, checkout, operator_for_here, plugins_for, progress};

pub use spdx::document;

/// What an archive holds: name, mode and content of each file, in this order.
type Files = Vec<(String, u32, Vec<u8>)>;

/// Writes to `folder` an archive of plugins for each of these architectures, one of the operator where this machine's is among them, the list and
/// the checksums, and returns the files' names. Without an operator there is no archive of it.
///
/// # Errors
/// If something cannot be built or written.
pub fn run(folder: &Path, version: Option<&str>, architectures: &[Architecture], operator: Option<Operator>) -> Result<Vec<PathBuf>> {
    let version = version.map_or_else(|| format!("v{}", env!("CARGO_PKG_VERSION")), str::to_owned);
    let cache = Cache::open()?;
    let mut contents = Vec::new();
    for &architecture in architectures {
        let archive = format!("azure-vnet-cni-linux-{}-{version}.tgz", architecture.name());
        let files = files(&plugins_for(&cache, architecture)?)?;
        progress(&format!("writing {archive}"));
        contents.push((archive, pack(&files)?));
    }
    let here = Architecture::of_this_machine();
    if let Some(operator) = operator.filter(|_| architectures.contains(&here)) {
        let archive = format!("azure-vnet-operator-linux-{}-{version}.tgz", here.name());
        let program = operator_for_here(&cache, operator)?;
        let content = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
        progress(&format!("writing {archive}"));
        contents.push((archive, pack(&vec![("azure-vnet-operator".into(), 0o755, content)])?));
    }
    contents.push((format!("azure-vnet-{version}.spdx.json"), spdx::of_checkout(&version)?.into_bytes()));
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut sums = Vec::new();
    let mut written = Vec::new();
    for (name, content) in contents {
        writeln!(sums, "{}  {name}", hex(&Sha256::digest(&content)))?;
        written.push(place(folder, &name, &content)?);
    }
    written.push(place(folder, "SHA256SUMS", &sums)?);
    Ok(written)
}

/// What an archive holds, with plugins of this folder.
fn files(plugins: &Path) -> Result<Files> {
    let read = |name: &str| fs::read(plugins.join(name)).with_context(|| format!("cannot read {name}"));
    Ok(vec![
        ("10-azure.conflist".into(), 0o644, conflist().into_bytes()),
        ("azure-vnet".into(), 0o755, read("azure-vnet")?),
        ("azure-vnet-ipam".into(), 0o755, read("azure-vnet-ipam")?),
    ])
}

/// The configuration of a machine whose plugins learn its addresses by themselves.
fn conflist() -> String {
    let list = json!({
        "cniVersion": "0.3.0",
        "name": "azure",
        "plugins": [
            {"type": "azure-vnet", "mode": "transparent", "ipam": {"type": "azure-vnet-ipam"}},
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    });
    format!("{list:#}\n")
}

/// A gzipped tar without times, users or groups.
fn pack(files: &Files) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, mode, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len().try_into()?);
        header.set_mode(*mode);
        header.set_mtime(0);
        header.set_cksum();
        builder.append_data(&mut header, name, content.as_slice())?;
    }
    let tar = builder.into_inner()?;
    let mut gzip = Command::new("gzip")
        .args(["--best", "--no-name"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run gzip")?;
    let mut input = gzip.stdin.take().context("a child with a piped input has one")?;
    let feeding = std::thread::spawn(move || input.write_all(&tar));
    let output = gzip.wait_with_output().context("cannot wait for gzip")?;
    feeding.join().map_err(|_| anyhow::anyhow!("feeding gzip was broken off"))?.context("cannot feed gzip")?;
    ensure!(output.status.success(), "gzip failed ({})", output.status);
    Ok(output.stdout)
}

fn place(folder: &Path, name: &str, content: &[u8]) -> Result<PathBuf> {
    let (path, temporary) = (folder.join(name), folder.join(format!(".{name}.new")));
    fs::write(&temporary, content).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::rename(&temporary, &path).with_context(|| format!("cannot place {}", path.display()))?;
    Ok(path)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Where `dist` writes if nothing else is said.
#[must_use]
pub fn default_folder() -> PathBuf {
    checkout().join("target/dist")
}
