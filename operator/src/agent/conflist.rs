//! The CNI configuration list on disk: written last and only when every plugin that it names answers, mended when it drifts, never removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use azure_vnet_operator_core::conflist::{self, Conflist, FileName, PluginName};
use rustix::io::Errno;

use super::plugins::Stamp;
use crate::install::version::{self, VersionError};

/// Why the list was not written. One that is there stays.
#[derive(Debug, thiserror::Error)]
pub enum ConflistError {
    /// A plugin does not answer (safety rule UP4).
    #[error("the CNI configuration waits for a plugin that it names")]
    Plugin(#[source] VersionError),
    /// No version suits all.
    #[error("no CNI version up to the one in spec.cni.cniVersion is known to every plugin of the chain")]
    Version,
    /// The file cannot be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The versions that plugins named, remembered while their files stay the same.
#[derive(Debug, Default)]
pub struct Versions(BTreeMap<PathBuf, (Stamp, BTreeSet<String>)>);

impl Versions {
    fn of(&mut self, path: &Path) -> Result<BTreeSet<String>, VersionError> {
        let now = Stamp::of(path);
        if let (Some(now), Some((then, versions))) = (now, self.0.get(path))
            && now == *then
        {
            return Ok(versions.clone());
        }
        self.0.remove(path);
        let versions = version::ask(path)?;
        if let Some(now) = now {
            self.0.insert(path.to_owned(), (now, versions.clone()));
        }
        Ok(versions)
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The right list.
    Same,
    /// None.
    Missing,
    /// The one that the agent placed before: since then it was asked for another, or the plugins know other versions.
    Former,
    /// Another program's.
    Other,
}

/// Brings the list to what is desired. Answers what was found, and the text that is there now. `placed` is the text that was there after the last time.
///
/// # Errors
/// When a plugin does not answer, or the file cannot be written.
pub fn converge(
    desired: &Conflist,
    (plugins, folder): (&Path, &Path),
    versions: &mut Versions,
    placed: Option<&str>,
) -> Result<(Found, String), ConflistError> {
    let known = desired.plugins.iter().map(|name| versions.of(&plugins.join(PluginName::as_str(name))));
    let known = known.collect::<Result<Vec<_>, _>>().map_err(ConflistError::Plugin)?;
    let version = desired.version(&known).ok_or(ConflistError::Version)?;
    let (path, text) = (folder.join(desired.file.as_str()), desired.render(version));
    let found = match fs::read_to_string(&path) {
        Ok(present) if present == text => return Ok((Found::Same, text)),
        Ok(present) if placed == Some(present.as_str()) => Found::Former,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Found::Missing,
        // What cannot be read is replaced too, and the attempt says why if it cannot be.
        Ok(_) | Err(_) => Found::Other,
    };
    replace(&path, folder, &text).map_err(|source| ConflistError::Write { path, source })?;
    Ok((found, text))
}

/// The list that is there, where pods go on starting by it on no bridge: an agent's, whose plugins answer.
pub fn unbridged(file: &FileName, (plugins, folder): (&Path, &Path), versions: &mut Versions) -> Option<String> {
    let text = fs::read_to_string(folder.join(file.as_str())).ok()?;
    let names = conflist::plugins_without_bridge(&text)?;
    names.iter().all(|name| versions.of(&plugins.join(name.as_str())).is_ok()).then_some(text)
}

/// Files of others that runtimes read in the list's place. They stay: who put them there may rely on them.
///
/// # Errors
/// When the folder cannot be read.
pub fn shadowing(file: &FileName, folder: &Path) -> io::Result<Vec<String>> {
    let names: Vec<String> = fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    Ok(conflist::shadowing(file, names.iter().map(String::as_str)).into_iter().map(str::to_owned).collect())
}

/// The runtime sees the old list or the whole new one. It reads names that end in .conf, .conflist or .json: the temporary one does not.
fn replace(path: &Path, folder: &Path, text: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.new"));
    let written = write_synced(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _left_behind = fs::remove_file(&temporary);
    }
    written?;
    match fs::File::open(folder)?.sync_all() {
        // Some file systems cannot sync a folder.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => Ok(()),
        synced => synced,
    }
}

fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use azure_vnet_crds::config::CniSpec;
    use azure_vnet_operator_core::conflist;

    use super::*;

    struct Node {
        plugins: tempfile::TempDir,
        folder: tempfile::TempDir,
        versions: Versions,
    }

    fn node(names: &[&str]) -> Node {
        let node = Node { plugins: tempfile::tempdir().unwrap(), folder: tempfile::tempdir().unwrap(), versions: Versions::default() };
        for name in names {
            put(node.plugins.path(), name, "#!/bin/sh\necho '{\"supportedVersions\":[\"1.0.0\"]}'\n");
        }
        node
    }

    fn put(folder: &Path, name: &str, script: &str) {
        fs::write(folder.join(name), script).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Another thread's fork may hold a script open for writing for a moment (ETXTBSY).
    fn converge_when_free(node: &mut Node) -> Result<Found, ConflistError> {
        let desired = conflist::desire(&CniSpec::default()).unwrap();
        loop {
            match converge(&desired, (node.plugins.path(), node.folder.path()), &mut node.versions, None) {
                Err(ConflistError::Plugin(VersionError::Run { source, .. })) if source.raw_os_error() == Some(26) => {
                    std::thread::yield_now();
                }
                done => return done.map(|(found, _)| found),
            }
        }
    }

    const ALL: [&str; 3] = ["azure-vnet", "azure-vnet-ipam", "portmap"];

    #[test]
    fn up4_nothing_is_written_while_a_plugin_is_missing() {
        let mut node = node(&["azure-vnet", "azure-vnet-ipam"]);
        let error = converge_when_free(&mut node).unwrap_err();
        assert!(matches!(&error, ConflistError::Plugin(VersionError::Missing { path }) if path.ends_with("portmap")), "{error}");
        assert_eq!(fs::read_dir(node.folder.path()).unwrap().count(), 0);
        put(node.plugins.path(), "portmap", "#!/bin/sh\necho '{\"supportedVersions\":[\"1.0.0\"]}'\n");
        assert_eq!(converge_when_free(&mut node).unwrap(), Found::Missing);
    }

    #[test]
    fn up4_a_plugin_that_breaks_later_leaves_the_list_in_place() {
        let mut node = node(&ALL);
        assert_eq!(converge_when_free(&mut node).unwrap(), Found::Missing);
        fs::remove_file(node.plugins.path().join("portmap")).unwrap();
        assert!(converge_when_free(&mut node).is_err());
        assert!(node.folder.path().join("10-azure-vnet.conflist").exists());
    }

    #[test]
    fn drift_is_mended_and_nothing_is_written_without_drift() {
        let mut node = node(&ALL);
        let path = node.folder.path().join("10-azure-vnet.conflist");
        assert_eq!(converge_when_free(&mut node).unwrap(), Found::Missing);
        let inode = fs::metadata(&path).unwrap().ino();
        assert_eq!(converge_when_free(&mut node).unwrap(), Found::Same);
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        fs::write(&path, "{}").unwrap();
        assert_eq!(converge_when_free(&mut node).unwrap(), Found::Other);
        fs::remove_file(&path).unwrap();
        assert_eq!(converge_when_free(&mut node).unwrap(), Found::Missing);
        assert_eq!(fs::read_dir(node.folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_plugin_is_asked_again_only_when_its_file_changed() {
        let mut node = node(&ALL);
        let asked = node.folder.path().join("asked");
        let script = format!("#!/bin/sh\necho x >> {}\necho '{{\"supportedVersions\":[\"1.0.0\"]}}'\n", asked.display());
        put(node.plugins.path(), "portmap", &script);
        for _ in 0..3 {
            converge_when_free(&mut node).unwrap();
        }
        assert_eq!(fs::read_to_string(&asked).unwrap(), "x\n");
    }
}
