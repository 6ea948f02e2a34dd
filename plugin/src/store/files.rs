//! The file operations that the store is made of, one function each, so that an error names operation and file,
//! and so that tests can stop a process at every one of them.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use rustix::fs::OFlags;

use super::error::FileError;
use crate::{
    clock, lock,
    small::{self, Seen},
};

/// What tells one file from another under the same name.
pub(super) type Inode = (u64, u64);

/// Names of files that are not in place yet begin so; they are made under the lock, so that those found under it are of the dead.
pub(super) const NEW: &str = ".new-";

/// No record is longer; a file that is gets cut here, and with it becomes unreadable.
const MOST_READ: usize = 1 << 16;
/// Most are shorter.
const LIKELY: usize = 1 << 10;

pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    absent(small::read(path)).map_err(failed("read", path))
}

/// The content of a file that may be looked at again.
pub(super) fn see(path: &Path) -> Result<Option<Seen>, FileError> {
    absent(Seen::read(path)).map_err(failed("read", path))
}

/// Whether a file that was read is what `path` names still, and as it was.
pub(super) fn is_seen_at(seen: &Seen, path: &Path) -> Result<bool, FileError> {
    seen.is_at(path).map_err(failed("look at", path))
}

/// The content of an open record, wherever the file's offset stands.
pub(super) fn read_whole(file: &File, path: &Path) -> Result<Vec<u8>, FileError> {
    small::read_whole(file, LIKELY, MOST_READ).map_err(failed("read", path))
}

pub(super) fn open(path: &Path) -> Result<Option<File>, FileError> {
    absent(small::open(path, OFlags::RDWR)).map_err(failed("open", path))
}

pub(super) fn open_or_create(path: &Path) -> Result<File, FileError> {
    small::open(path, OFlags::RDWR | OFlags::CREATE).map_err(failed("open", path))
}

pub(super) fn inode(path: &Path) -> Result<Option<Inode>, FileError> {
    Ok(absent(fs::symlink_metadata(path)).map_err(failed("look at", path))?.map(|meta| (meta.dev(), meta.ino())))
}

pub(super) fn written(path: &Path) -> Result<Option<SystemTime>, FileError> {
    absent(fs::symlink_metadata(path).and_then(|meta| meta.modified())).map_err(failed("look at", path))
}

pub(super) fn inode_of(file: &File, path: &Path) -> Result<Inode, FileError> {
    file.metadata().map(|meta| (meta.dev(), meta.ino())).map_err(failed("look at", path))
}

/// Whether the open folder is still linked anywhere.
pub(super) fn is_linked(folder: &File, path: &Path) -> Result<bool, FileError> {
    folder.metadata().map(|meta| meta.nlink() > 0).map_err(failed("look at", path))
}

/// The names in a folder, `.new-` ones included; none where the folder is not there.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, FileError> {
    let Some(entries) = absent(fs::read_dir(folder)).map_err(failed("list", folder))? else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed("list", folder))?.file_name();
        names.extend(name.into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// A file of this content under a name that no one else uses.
pub(super) fn create_new(folder: &Path, content: &str) -> Result<(File, PathBuf), FileError> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = clock::since_boot();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!("{NEW}{}-{count}-{}-{}", std::process::id(), now.as_secs(), now.subsec_nanos()));
    let create = || {
        step("create", &path)?;
        small::open(&path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    };
    let mut file = create().map_err(failed("create", &path))?;
    let written = step("write", &path).and_then(|()| file.write_all(content.as_bytes()));
    if let Err(source) = written {
        let _ = remove(&path);
        return Err(FileError { operation: "write", path, source });
    }
    Ok((file, path))
}

/// Writes a file that may be lost or torn.
pub(super) fn note(path: &Path, content: &str) -> Result<(), FileError> {
    absent(fs::write(path, content)).map(|_| ()).map_err(failed("write", path))
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    step("rename", to).and_then(|()| fs::rename(from, to)).map_err(failed("put in place", to))
}

/// Links `from` as `to`; `false` where `to` is taken.
pub(super) fn link(from: &Path, to: &Path) -> Result<bool, FileError> {
    match step("link", to).and_then(|()| fs::hard_link(from, to)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(FileError { operation: "link", path: to.to_owned(), source }),
    }
}

/// Removes a name; whether it was there.
pub(super) fn remove(path: &Path) -> Result<bool, FileError> {
    let removed = step("remove", path).and_then(|()| fs::remove_file(path));
    Ok(absent(removed).map_err(failed("remove", path))?.is_some())
}

/// Links a file of this content as `path`; `false` where it is taken.
pub(super) fn link_new(folder: &Path, path: &Path, content: &str) -> Result<bool, FileError> {
    let (_, new) = create_new(folder, content)?;
    let linked = link(&new, path);
    remove(&new)?;
    linked
}

/// Puts a file of this content in the place of `path`, without making it durable.
pub(super) fn replace(folder: &Path, path: &Path, content: &str) -> Result<(), FileError> {
    let (_, new) = create_new(folder, content)?;
    rename(&new, path).inspect_err(|_| {
        let _ = remove(&new);
    })
}

/// Puts a file of this content in the place of `path`, durably: a reader after a power cut sees the old or the new.
pub(super) fn replace_durably(folder: &Path, path: &Path, content: &str) -> Result<(), FileError> {
    let (file, new) = create_new(folder, content)?;
    let placed = step("sync", &new).and_then(|()| file.sync_all()).map_err(failed("sync", &new)).and_then(|()| rename(&new, path));
    if placed.is_err() {
        let _ = remove(&new);
    }
    placed?;
    sync_parent(path)
}

/// Removes a name durably.
pub(super) fn remove_durably(path: &Path) -> Result<bool, FileError> {
    let removed = remove(path)?;
    if removed {
        sync_parent(path)?;
    }
    Ok(removed)
}

/// Overwrites a file where it stands: all that a full file system still takes.
pub(super) fn overwrite(file: &File, path: &Path, content: &str) -> Result<(), FileError> {
    let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
    step("overwrite", path)
        .and_then(|()| file.write_all_at(content.as_bytes(), 0))
        .and_then(|()| file.set_len(length))
        .map_err(failed("overwrite", path))
}

/// Makes a folder that only its owner may enter, and those above it.
pub(super) fn make_folder(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make", path))
}

pub(super) fn open_folder(path: &Path) -> Result<File, FileError> {
    File::open(path).map_err(failed("open", path))
}

pub(super) fn sync_parent(path: &Path) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(path);
    let sync = || {
        step("sync folder", folder)?;
        File::open(folder)?.sync_all()?;
        synced(folder);
        Ok(())
    };
    sync().map_err(failed("sync", folder))
}

/// Takes the flock within `patience`; whether it was got.
pub(super) fn wait_for(file: &File, path: &Path, patience: Duration) -> Result<bool, FileError> {
    lock::wait_for(file, patience).map_err(failed("lock", path))
}

fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError { operation, path: path.to_owned(), source }
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "tests make it fail")]
fn step(_: &str, _: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(not(test))]
fn synced(_: &Path) {}

#[cfg(test)]
use faults::{step, synced};

#[cfg(test)]
pub(super) mod faults;
