//! Container images without a registry: an OCI image layout in one tar, made from files.
//!
//! Deterministic: the same entries give the same bytes. Knows nothing of compression or of layers beyond one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::hex;

/// What stands at one path of an image.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A regular file with its mode.
    File {
        /// Permission bits.
        mode: u32,
        /// What is in it.
        content: Vec<u8>,
    },
    /// A symbolic link and its target.
    Link(String),
    /// A folder with its mode.
    Folder(u32),
}

/// An image to be written.
#[derive(Debug, Clone)]
pub struct Image {
    /// The full name with a tag other than `latest`, so that no registry is asked for it.
    pub name: String,
    /// The command that is always run.
    pub entrypoint: Vec<String>,
    /// Arguments when the pod gives none.
    pub cmd: Vec<String>,
    /// What the runtime sends to end it.
    pub stop_signal: &'static str,
    /// Files by path without a leading slash.
    pub entries: BTreeMap<String, Entry>,
}

impl Image {
    /// An image with nothing in it.
    #[must_use]
    pub fn new(name: &str, entrypoint: &[&str], cmd: &[&str]) -> Self {
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        // The first process of a pid namespace ignores signals that it has no handler for.
        let stop_signal = if name.contains("/azure-vnet:") { "SIGTERM" } else { "SIGKILL" };
        Self { name: name.to_owned(), entrypoint: owned(entrypoint), cmd: owned(cmd), stop_signal, entries: BTreeMap::new() }
    }

    /// Adds an executable.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn executable(mut self, path: &str, source: &Path) -> Result<Self> {
        let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        self.entries.insert(path.trim_start_matches('/').to_owned(), Entry::File { mode: 0o755, content });
        Ok(self)
    }

    /// Adds a whole folder as the image's root.
    ///
    /// # Errors
    /// If something in it cannot be read, or is neither file, folder nor symbolic link.
    pub fn tree(mut self, root: &Path) -> Result<Self> {
        let mut open = vec![root.to_path_buf()];
        while let Some(folder) = open.pop() {
            for item in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
                let path = item?.path();
                let name = path.strip_prefix(root)?.to_str().context("a path that is not UTF-8")?.to_owned();
                let metadata = fs::symlink_metadata(&path)?;
                let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777;
                let entry = if metadata.is_symlink() {
                    Entry::Link(fs::read_link(&path)?.to_str().context("a link that is not UTF-8")?.to_owned())
                } else if metadata.is_dir() {
                    open.push(path);
                    Entry::Folder(mode)
                } else {
                    Entry::File { mode, content: fs::read(&path).with_context(|| format!("cannot read {}", path.display()))? }
                };
                self.entries.insert(name, entry);
            }
        }
        Ok(self)
    }

    /// The image as a tar that `ctr images import` reads.
    ///
    /// # Errors
    /// If an entry's path does not fit a tar header.
    pub fn to_tar(&self) -> Result<Vec<u8>> {
        let layer = self.layer()?;
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(), "os": "linux", "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": self.entrypoint, "Cmd": self.cmd,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "StopSignal": self.stop_signal,
            },
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
            "history": [{"created": "1970-01-01T00:00:00Z"}],
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(&layer), "size": layer.len()}],
        }))?;
        let tag = self.name.rsplit_once(':').map_or("1", |(_, tag)| tag);
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(&manifest), "size": manifest.len(),
                "platform": {"architecture": architecture(), "os": "linux"},
                "annotations": {"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag},
            }],
        }))?;
        let mut tar = Builder::new(Vec::new());
        file(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        file(&mut tar, "index.json", 0o644, &index)?;
        for blob in [&config, &manifest, &layer] {
            file(&mut tar, &digest(blob).replacen("sha256:", "blobs/sha256/", 1), 0o644, blob)?;
        }
        Ok(tar.into_inner()?)
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut entries = self.entries.clone();
        for path in self.entries.keys() {
            for folder in Path::new(path).ancestors().skip(1).filter_map(Path::to_str).filter(|folder| !folder.is_empty()) {
                entries.entry(folder.to_owned()).or_insert(Entry::Folder(0o755));
            }
        }
        let mut tar = Builder::new(Vec::new());
        for (path, entry) in &entries {
            match entry {
                Entry::File { mode, content } => file(&mut tar, path, *mode, content)?,
                Entry::Folder(mode) => {
                    tar.append_data(&mut header(EntryType::Directory, *mode, 0), format!("{path}/"), std::io::empty())?;
                }
                Entry::Link(target) => tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)?,
            }
        }
        Ok(tar.into_inner()?)
    }
}

fn file(tar: &mut Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let size = u64::try_from(content.len())?;
    tar.append_data(&mut header(EntryType::Regular, mode, size), path, content).with_context(|| format!("cannot add {path} to an image"))
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(content)))
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_the_same_bytes_each_time_and_has_its_folders() {
        let mut image = Image::new("lab.test/x:1", &["/a/b/x"], &[]);
        image.entries.insert("a/b/x".into(), Entry::File { mode: 0o755, content: b"x".to_vec() });
        assert_eq!(image.to_tar().unwrap(), image.to_tar().unwrap());
        let layer = image.layer().unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let names: Vec<_> = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names, ["a/", "a/b/", "a/b/x"]);
    }
}
