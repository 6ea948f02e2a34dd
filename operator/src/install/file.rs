//! One plugin file: compared, written beside its place, run there, and only then renamed into its place.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::version::{self, VersionError};

/// Ends the name of a file that is being written.
const TEMPORARY: &str = ".azure-vnet-new";
const EXECUTABLE: u32 = 0o755;

/// What becomes of a plugin that the node already has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is ours: it becomes this image's version.
    Replace,
    /// It is the node's: it stays.
    Keep,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Written.
    Wrote,
    /// The same was there.
    Same,
    /// Another one was there, and stays.
    Kept,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wrote => "written",
            Self::Same => "the same is there",
            Self::Kept => "the node's own stays",
        })
    }
}

/// Why a plugin was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The image lacks it, or it cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write {}: {}", .path.display(), hint(.source))]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder gave back other bytes than were written.
    #[error("{} does not hold what was written to it", .path.display())]
    Differs {
        /// The file.
        path: PathBuf,
    },
    /// It does not run where it was put.
    #[error("{name} does not run in the node's plugin folder")]
    Run {
        /// The plugin.
        name: String,
        /// Why.
        source: VersionError,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::ROFS) => "the file system is read-only; mount the node's plugin folder writable",
        Some(Errno::NOSPC | Errno::DQUOT) => "the file system is full; make room on the node",
        Some(Errno::ACCESS | Errno::PERM) => "permission denied; the installer runs as root and needs the folder writable for root",
        Some(Errno::NOENT) => "the folder does not exist; mount the node's plugin folder there",
        Some(_) | None => "the kernel refused",
    }
}

/// Installs one plugin.
pub fn install(from: &Path, to: &Path, name: &str, existing: Existing) -> Result<Done, InstallError> {
    let (source, target) = (from.join(name), to.join(name));
    let wanted = fs::read(&source).map_err(|error| InstallError::Read { path: source, source: error })?;
    let done = match (observe(&target, &wanted)?, existing) {
        (Observed::Same, _) => Done::Same,
        (Observed::Other, Existing::Keep) => return Ok(Done::Kept),
        (Observed::Other, Existing::Replace) | (Observed::Missing, _) => {
            replace(to, name, &wanted)?;
            Done::Wrote
        }
    };
    version::ask(&target).map_err(|source| InstallError::Run { name: name.to_owned(), source })?;
    Ok(done)
}

enum Observed {
    Missing,
    Same,
    Other,
}

fn observe(target: &Path, wanted: &[u8]) -> Result<Observed, InstallError> {
    let error = |source| InstallError::Read { path: target.to_owned(), source };
    let present = match fs::read(target) {
        Ok(present) => present,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Observed::Missing),
        Err(other) => return Err(error(other)),
    };
    let mode = fs::metadata(target).map_err(error)?.permissions().mode() & 0o7777;
    let same = Sha256::digest(&present) == Sha256::digest(wanted) && mode == EXECUTABLE;
    Ok(if same { Observed::Same } else { Observed::Other })
}

/// A runtime sees the old plugin or the whole new one, which has answered once before it takes the place.
fn replace(to: &Path, name: &str, wanted: &[u8]) -> Result<(), InstallError> {
    let temporary = to.join(format!("{name}{TEMPORARY}"));
    let placed = write(&temporary, wanted).and_then(|()| {
        version::ask(&temporary).map_err(|source| InstallError::Run { name: name.to_owned(), source })?;
        rename(&temporary, &to.join(name), to)
    });
    if placed.is_err() {
        // The failure that matters is being reported; what is left is swept at the next start.
        let _left_behind = fs::remove_file(&temporary);
    }
    placed
}

fn write(path: &Path, content: &[u8]) -> Result<(), InstallError> {
    let error = |source| InstallError::Write { path: path.to_owned(), source };
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(EXECUTABLE).open(path).map_err(error)?;
    file.write_all(content).map_err(error)?;
    file.set_permissions(fs::Permissions::from_mode(EXECUTABLE)).map_err(error)?;
    file.sync_all().map_err(error)?;
    drop(file);
    let back = fs::read(path).map_err(error)?;
    if Sha256::digest(&back) == Sha256::digest(content) { Ok(()) } else { Err(InstallError::Differs { path: path.to_owned() }) }
}

fn rename(temporary: &Path, target: &Path, folder: &Path) -> Result<(), InstallError> {
    let error = |source| InstallError::Write { path: target.to_owned(), source };
    fs::rename(temporary, target).map_err(error)?;
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(error)
}

/// Removes what an installer that was killed left behind.
pub fn sweep(to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(to)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(TEMPORARY)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The plugins of the image that are not among these, in order.
pub fn others(from: &Path, ours: &[&str]) -> io::Result<Vec<String>> {
    let mut names = vec![];
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !ours.contains(&name.as_str()) && entry.path().is_file() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folders {
        from: tempfile::TempDir,
        to: tempfile::TempDir,
    }

    /// A plugin that runs everywhere and is never "busy", since it was not written by this process.
    fn folders() -> Folders {
        let folders = Folders { from: tempfile::tempdir().unwrap(), to: tempfile::tempdir().unwrap() };
        put(folders.from.path(), "azure-vnet", &plugin("1"));
        folders
    }

    fn plugin(mark: &str) -> String {
        format!("#!/bin/sh\n# {mark}\necho '{{\"supportedVersions\":[\"1.0.0\"]}}'\n")
    }

    fn put(folder: &Path, name: &str, content: &str) {
        fs::write(folder.join(name), content).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(EXECUTABLE)).unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        others(folder, &[]).unwrap()
    }

    fn install_when_free(folders: &Folders, existing: Existing) -> Result<Done, InstallError> {
        loop {
            match install(folders.from.path(), folders.to.path(), "azure-vnet", existing) {
                Err(InstallError::Run { source: VersionError::Run { source, .. }, .. }) if source.raw_os_error() == Some(26) => {
                    std::thread::yield_now();
                }
                done => return done,
            }
        }
    }

    #[test]
    fn a_second_installation_writes_nothing() {
        let folders = folders();
        assert_eq!(install_when_free(&folders, Existing::Replace).unwrap(), Done::Wrote);
        let before = fs::metadata(folders.to.path().join("azure-vnet")).unwrap();
        assert_eq!(install_when_free(&folders, Existing::Replace).unwrap(), Done::Same);
        let after = fs::metadata(folders.to.path().join("azure-vnet")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::ino(&before), std::os::unix::fs::MetadataExt::ino(&after));
        assert_eq!(after.permissions().mode() & 0o7777, EXECUTABLE);
    }

    #[test]
    fn ours_is_replaced_and_the_nodes_own_stays() {
        let folders = folders();
        put(folders.to.path(), "azure-vnet", &plugin("other"));
        assert_eq!(install_when_free(&folders, Existing::Keep).unwrap(), Done::Kept);
        assert_eq!(fs::read_to_string(folders.to.path().join("azure-vnet")).unwrap(), plugin("other"));
        assert_eq!(install_when_free(&folders, Existing::Replace).unwrap(), Done::Wrote);
        assert_eq!(fs::read_to_string(folders.to.path().join("azure-vnet")).unwrap(), plugin("1"));
    }

    #[test]
    fn a_lost_mode_is_mended() {
        let folders = folders();
        put(folders.to.path(), "azure-vnet", &plugin("1"));
        fs::set_permissions(folders.to.path().join("azure-vnet"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(install_when_free(&folders, Existing::Replace).unwrap(), Done::Wrote);
    }

    #[test]
    fn up4_a_plugin_that_does_not_run_never_takes_the_place_of_one_that_does() {
        let folders = folders();
        put(folders.to.path(), "azure-vnet", &plugin("works"));
        put(folders.from.path(), "azure-vnet", "\u{7f}ELF for elsewhere");
        assert!(matches!(install_when_free(&folders, Existing::Replace), Err(InstallError::Run { .. })));
        assert_eq!(fs::read_to_string(folders.to.path().join("azure-vnet")).unwrap(), plugin("works"));
        assert_eq!(names(folders.to.path()), ["azure-vnet"]);
    }

    #[test]
    fn leftovers_of_a_killed_installer_are_swept() {
        let folders = folders();
        put(folders.to.path(), "azure-vnet.azure-vnet-new", "half");
        put(folders.to.path(), "portmap", "theirs");
        sweep(folders.to.path()).unwrap();
        assert_eq!(names(folders.to.path()), ["portmap"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folders = folders();
        let nowhere = folders.to.path().join("nowhere");
        let error = install(folders.from.path(), &nowhere, "azure-vnet", Existing::Replace).unwrap_err();
        assert!(error.to_string().contains("nowhere/azure-vnet"), "{error}");
        assert!(error.to_string().contains("does not exist"), "{error}");
    }
}
