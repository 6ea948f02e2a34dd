//! Reads and writes the kernel settings that the agent keeps.

use std::{fs, io, path::Path};

use azure_vnet_crds::config::HostSpec;
use azure_vnet_operator_core::sysctl::{self, Settings};

/// Why a setting could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {path} to {value}; the agent needs the node's /proc/sys/net mounted writable")]
pub struct SysctlError {
    path: String,
    value: String,
    source: io::Error,
}

/// Brings the settings to what is desired. Answers what differed.
///
/// # Errors
/// When one cannot be written; those before it are.
pub fn converge(root: &Path, host: &HostSpec, nic: Option<&str>) -> Result<Vec<String>, SysctlError> {
    let plan = sysctl::plan(&observe(root, nic), host, nic);
    for (path, value) in &plan {
        fs::write(root.join(path), value).map_err(|source| SysctlError { path: path.clone(), value: value.clone(), source })?;
    }
    Ok(plan.into_keys().collect())
}

fn observe(root: &Path, nic: Option<&str>) -> Settings {
    let paths = sysctl::watched(nic.unwrap_or("default"));
    let read = |path: String| fs::read_to_string(root.join(&path)).ok().map(|value| (path, value.trim().to_owned()));
    paths.into_iter().filter_map(read).collect()
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
        let first = converge(root.path(), &HostSpec::default(), Some("eth0")).unwrap();
        assert_eq!(first, ["ipv4/conf/all/rp_filter", "ipv4/conf/eth0/rp_filter", "ipv4/ip_forward"]);
        assert_eq!(converge(root.path(), &HostSpec::default(), Some("eth0")).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_setting_that_cannot_be_written_is_named() {
        let error = converge(Path::new("/nowhere"), &HostSpec::default(), None).unwrap_err();
        assert!(error.to_string().contains("ipv4/ip_forward"), "{error}");
    }
}
