//! Our own plugins on the node: what somebody replaced or broke is put back from this image. Others' plugins are theirs.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::install::{self, Done, InstallError};

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: Option<SystemTime>,
    mode: u32,
}

impl Stamp {
    /// Of a file; `None` where there is none.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: metadata.modified().ok(),
            mode: metadata.mode(),
        })
    }
}

/// The plugins that were found right, and how they looked.
#[derive(Debug, Default)]
pub struct Plugins(BTreeMap<PathBuf, Stamp>);

impl Plugins {
    /// Compares those that look otherwise than they did when they were right, and puts back what differs. Answers which.
    ///
    /// # Errors
    /// When one cannot be read or written, or does not run in its place.
    pub fn converge(&mut self, from: &Path, to: &Path) -> Result<Vec<String>, InstallError> {
        let mut differed = vec![];
        for name in install::OURS {
            let path = to.join(name);
            let stamp = Stamp::of(&path);
            if stamp.is_some() && self.0.get(&path) == stamp.as_ref() {
                continue;
            }
            match install::install(from, to, name, install::Existing::Replace)? {
                Done::Wrote => differed.push(path.display().to_string()),
                Done::Same | Done::Kept => {}
            }
            self.0.extend(Stamp::of(&path).map(|stamp| (path, stamp)));
        }
        Ok(differed)
    }
}
