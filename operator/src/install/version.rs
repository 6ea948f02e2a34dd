//! Asks a plugin for its versions, which proves that it exists, runs on this machine and speaks the protocol.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use azure_vnet_operator_core::conflist;

use crate::child::{self, ChildError, Limit};

/// How long a plugin may take to answer: a node under pressure is slow, a plugin that hangs is broken.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why a plugin did not tell its versions.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// There is none.
    #[error("there is no {}; install it there, or take it out of spec.cni.chain", .path.display())]
    Missing {
        /// The plugin.
        path: PathBuf,
    },
    /// It could not be started.
    #[error("cannot run {}: {}", .path.display(), hint(.source))]
    Run {
        /// The plugin.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It ran too long.
    #[error("{} did not answer VERSION within {} s", .path.display(), DEADLINE.as_secs())]
    Deadline {
        /// The plugin.
        path: PathBuf,
    },
    /// It answered something else.
    #[error("{} answered VERSION with {answer:?}, which names no supported versions", .path.display())]
    Answer {
        /// The plugin.
        path: PathBuf,
        /// Its first bytes.
        answer: String,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(8) => "it is built for another processor architecture, or cut short",
        Some(13) => "its folder is mounted noexec, or it is not executable",
        _ => "the kernel refused",
    }
}

/// Runs `CNI_COMMAND=VERSION`.
///
/// # Errors
/// When it does not exist, does not run, or does not answer as the specification says.
pub fn ask(path: &Path) -> Result<BTreeSet<String>, VersionError> {
    let mut command = Command::new(path);
    command.env_clear().env("CNI_COMMAND", "VERSION");
    let answer = child::run(&mut command, br#"{"cniVersion":"1.0.0"}"#, Limit::of(DEADLINE)).map_err(|error| broken(path, error))?.stdout;
    conflist::known_versions(&answer)
        .filter(|versions| !versions.is_empty())
        .ok_or_else(|| VersionError::Answer { path: path.to_owned(), answer: String::from_utf8_lossy(&answer).chars().take(200).collect() })
}

fn broken(path: &Path, error: ChildError) -> VersionError {
    let path = path.to_owned();
    match error {
        // A missing loader or interpreter answers the same: the file itself tells them apart.
        ChildError::Run(source) if source.kind() == io::ErrorKind::NotFound && !path.exists() => VersionError::Missing { path },
        ChildError::Run(source) => VersionError::Run { path, source },
        ChildError::Deadline(_) => VersionError::Deadline { path },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn script(folder: &Path, content: &str) -> PathBuf {
        let path = folder.join("plugin");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Another thread's fork may hold the script open for writing for a moment (ETXTBSY).
    fn ask_when_free(path: &Path) -> Result<BTreeSet<String>, VersionError> {
        loop {
            match ask(path) {
                Err(VersionError::Run { source, .. }) if source.raw_os_error() == Some(26) => std::thread::yield_now(),
                answer => return answer,
            }
        }
    }

    #[test]
    fn a_plugin_that_answers_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = script(folder.path(), "#!/bin/sh\n[ $CNI_COMMAND = VERSION ] && echo '{\"supportedVersions\":[\"1.0.0\"]}'\n");
        assert_eq!(ask_when_free(&path).unwrap(), ["1.0.0".to_owned()].into());
    }

    #[test]
    fn what_is_wrong_with_a_plugin_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let missing = ask(&folder.path().join("none")).unwrap_err();
        assert!(matches!(missing, VersionError::Missing { .. }), "{missing}");
        let path = script(folder.path(), "#!/bin/sh\necho hello\n");
        assert!(matches!(ask_when_free(&path).unwrap_err(), VersionError::Answer { answer, .. } if answer == "hello\n"));
        let path = script(folder.path(), "\u{7f}ELF\u{2}\u{1}\u{1}");
        let other = ask_when_free(&path).unwrap_err().to_string();
        assert!(other.contains("another processor architecture"), "{other}");
    }
}
