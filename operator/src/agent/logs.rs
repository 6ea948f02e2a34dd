//! Rotates the plugins' logs: they append one line a command and know nothing of sizes.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The plugins' logs.
const NAMES: [&str; 2] = ["azure-vnet.log", "azure-vnet-ipam.log"];
const MOST_BYTES: u64 = 5 * 1024 * 1024;

/// Moves a log that has grown too long aside, over the one moved before it.
///
/// # Errors
/// When it cannot be renamed.
pub fn rotate(folder: &Path) -> io::Result<()> {
    for name in NAMES {
        let log = folder.join(name);
        if fs::metadata(&log).is_ok_and(|metadata| metadata.len() > MOST_BYTES) {
            fs::rename(&log, folder.join(format!("{name}.1")))?;
        }
    }
    Ok(())
}

/// Every log that there may be, with those moved aside.
pub fn all(folder: &Path) -> impl Iterator<Item = PathBuf> {
    NAMES.into_iter().flat_map(|name| [name.to_owned(), format!("{name}.1")]).map(|name| folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_log_is_moved() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("azure-vnet-ipam.log"), "short").unwrap();
        fs::File::create(folder.path().join("azure-vnet.log")).unwrap().set_len(MOST_BYTES + 1).unwrap();
        rotate(folder.path()).unwrap();
        let names: std::collections::BTreeSet<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(names, ["azure-vnet-ipam.log".to_owned(), "azure-vnet.log.1".to_owned()].into());
    }
}
