//! Reads and writes the kernel settings that the agent keeps, and notes what they were, so that they can go back to it.

use std::{fs, io, path::Path};

use azure_vnet_crds::config::HostSpec;
use azure_vnet_operator_core::sysctl::{self, Forwarding, Record, Settings};

/// Below the node store's folder: it ends with the boot, as the settings do.
const RECORD: &str = "sysctl";

/// Why a setting could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The setting itself.
    #[error("cannot set {path} to {value}; the agent needs the node's /proc/sys/net mounted writable")]
    Write {
        /// Which.
        path: String,
        /// To what.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// What it was.
    #[error("cannot note what the kernel's settings were")]
    Record(#[source] io::Error),
}

/// Brings the settings to what is desired, and notes in `run` what they were. Answers what differed.
///
/// # Errors
/// When one cannot be written; those before it are.
pub fn converge(root: &Path, run: &Path, host: &HostSpec, nic: Option<&str>) -> Result<Vec<String>, SysctlError> {
    let observed = observe(root, sysctl::watched(nic.unwrap_or("default")));
    let plan = sysctl::plan(&observed, host, nic);
    if !plan.is_empty() {
        note(run, &sysctl::record(read(run), &observed, &plan)).map_err(SysctlError::Record)?;
    }
    write(root, &plan)?;
    Ok(plan.into_keys().collect())
}

/// Brings the settings back to what they were before the first change in this boot. Answers which.
///
/// # Errors
/// When one cannot be written; those before it are.
pub fn restore(root: &Path, run: &Path, forwarding: Forwarding) -> Result<Vec<String>, SysctlError> {
    let record = read(run);
    let plan = sysctl::restore(&record, &observe(root, record.keys().cloned()), forwarding);
    write(root, &plan)?;
    Ok(plan.into_keys().collect())
}

fn write(root: &Path, plan: &Settings) -> Result<(), SysctlError> {
    for (path, value) in plan {
        fs::write(root.join(path), value).map_err(|source| SysctlError::Write { path: path.clone(), value: value.clone(), source })?;
    }
    Ok(())
}

fn observe(root: &Path, paths: impl IntoIterator<Item = String>) -> Settings {
    let read = |path: String| fs::read_to_string(root.join(&path)).ok().map(|value| (path, value.trim().to_owned()));
    paths.into_iter().filter_map(read).collect()
}

/// A record that cannot be read is none: what is not known stays as it is.
fn read(run: &Path) -> Record {
    fs::read(run.join(RECORD)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn note(run: &Path, record: &Record) -> io::Result<()> {
    let (path, temporary) = (run.join(RECORD), run.join(format!("{RECORD}.new")));
    fs::write(&temporary, serde_json::to_vec(record).map_err(io::Error::from)?)?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, value) in [("ipv4/ip_forward", "0\n"), ("ipv4/conf/all/rp_filter", "2\n"), ("ipv4/conf/eth0/rp_filter", "2\n")] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        }
        root
    }

    #[test]
    fn a_second_pass_finds_nothing_to_do() {
        let root = root();
        let first = converge(root.path(), root.path(), &HostSpec::default(), Some("eth0")).unwrap();
        assert_eq!(first, ["ipv4/conf/all/rp_filter", "ipv4/conf/eth0/rp_filter", "ipv4/ip_forward"]);
        assert_eq!(converge(root.path(), root.path(), &HostSpec::default(), Some("eth0")).unwrap(), Vec::<String>::new());
        assert_eq!(restore(root.path(), root.path(), Forwarding::Unneeded).unwrap(), first);
        assert_eq!(fs::read_to_string(root.path().join("ipv4/conf/all/rp_filter")).unwrap(), "2");
        assert_eq!(restore(root.path(), root.path(), Forwarding::Unneeded).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_setting_that_cannot_be_written_is_named() {
        let run = tempfile::tempdir().unwrap();
        let error = converge(Path::new("/nowhere"), run.path(), &HostSpec::default(), None).unwrap_err();
        assert!(error.to_string().contains("ipv4/ip_forward"), "{error}");
    }
}
