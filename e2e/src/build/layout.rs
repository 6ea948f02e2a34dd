//! What others built, read as a registry would get it: an OCI image layout in a folder.

#![expect(clippy::indexing_slicing, reason = "a JSON value read by key is null where the key is missing; it never panics")]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Entry;

/// An image.
#[derive(Debug)]
pub struct Layout {
    /// Its file system: everything by path without a leading slash, all of it root's.
    pub entries: BTreeMap<String, Entry>,
    /// How it is run: the configuration's part of that name.
    pub config: Value,
}

impl Layout {
    /// Reads the first image of a layout.
    ///
    /// # Errors
    /// If it is none, or has something in it that is neither file, folder nor symbolic link, or is not root's.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let open = |of: &Value| {
            let digest = of["digest"].as_str().context("a part of an image has no digest")?;
            let path = folder.join("blobs").join(digest.replace(':', "/"));
            File::open(&path).with_context(|| format!("cannot open {}", path.display()))
        };
        let index: Value = serde_json::from_reader(File::open(folder.join("index.json"))?)?;
        let manifest: Value = serde_json::from_reader(open(&index["manifests"][0])?)?;
        let config: Value = serde_json::from_reader(open(&manifest["config"])?)?;
        let mut entries = BTreeMap::new();
        for layer in manifest["layers"].as_array().context("an image has layers")? {
            entries.append(&mut read_tar(&*unpacked(open(layer)?)?)?);
        }
        let foreign: Vec<&str> = entries.iter().filter(|(_, (owner, _))| *owner != Owner::Root).map(|(path, _)| path.as_str()).collect();
        ensure!(foreign.is_empty(), "not root's: {}", foreign.join(" "));
        Ok(Self { entries: entries.into_iter().map(|(path, (_, entry))| (path, entry)).collect(), config: config["config"].clone() })
    }
}

/// Layers are compressed on their way to a registry.
fn unpacked(layer: File) -> Result<Vec<u8>> {
    let output = Command::new("gzip").args(["--decompress", "--stdout"]).stdin(layer).output().context("cannot run gzip")?;
    ensure!(output.status.success(), "a layer is not compressed by gzip: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// Whose something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Root,
    Another,
}

/// Everything in a tar by path without a leading slash.
///
/// # Errors
/// If it has something in it that is neither file, folder nor link.
pub(super) fn read_tar(tar: impl Read) -> Result<BTreeMap<String, (Owner, Entry)>> {
    let mut entries: BTreeMap<String, (Owner, Entry)> = BTreeMap::new();
    for item in tar::Archive::new(tar).entries()? {
        let mut item = item?;
        let path = name(&item.path()?)?;
        let (kind, mode) = (item.header().entry_type(), item.header().mode()? & 0o7777);
        let target = item.link_name()?.map(Cow::into_owned);
        let target = || target.as_deref().with_context(|| format!("{path} is a link without a target"));
        let entry = if kind.is_dir() {
            Entry::Folder(mode)
        } else if kind.is_symlink() {
            Entry::Link(target()?.to_str().context("a link that is not UTF-8")?.to_owned())
        } else if kind.is_hard_link() {
            entries.get(&name(target()?)?).with_context(|| format!("{path} is a link to nothing"))?.1.clone()
        } else {
            ensure!(kind.is_file(), "{path} is of kind {kind:?}");
            let mut content = Vec::new();
            item.read_to_end(&mut content)?;
            Entry::File { mode, content }
        };
        let owner = if (item.header().uid()?, item.header().gid()?) == (0, 0) { Owner::Root } else { Owner::Another };
        entries.insert(path, (owner, entry));
    }
    entries.remove("");
    Ok(entries)
}

fn name(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path that is not UTF-8")?.trim_start_matches("./").trim_end_matches('/').to_owned())
}
