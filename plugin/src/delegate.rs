//! IPAM plugins of others: found in `CNI_PATH`, run with the same environment and the same standard input, as the specification says.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use azure_vnet_plugin_core::{
    answer::Answer,
    error::{CniError, Code},
    request::Environment,
};
use serde_json::Value;

/// A call to another plugin.
#[derive(Clone, Copy, Debug)]
pub struct Delegate<'a> {
    /// Its name, as in `ipam.type`.
    pub name: &'a str,
    /// The variables of this command.
    pub environment: &'a Environment,
    /// The configuration, word for word: fields that are not known here count there.
    pub stdin: &'a [u8],
}

impl Delegate<'_> {
    /// Asks for an address.
    ///
    /// # Errors
    /// There is no such plugin, it fails, or answers what is no result.
    pub fn add(self) -> Result<Answer, CniError> {
        let out = self.run("ADD")?;
        let value: Value = serde_json::from_slice(&out)
            .map_err(|error| CniError::new(Code::Decode, format!("IPAM plugin {} answered ADD with no JSON: {error}", self.name)))?;
        Answer::parse(&value).map_err(|error| CniError::new(Code::Decode, format!("IPAM plugin {}: {error}", self.name)))
    }

    /// Runs a command that has no answer.
    ///
    /// # Errors
    /// There is no such plugin, or it fails.
    pub fn tell(self, command: &str) -> Result<(), CniError> {
        self.run(command).map(drop)
    }

    fn run(self, command: &str) -> Result<Vec<u8>, CniError> {
        let program = self.find()?;
        let io = |error: std::io::Error| CniError::new(Code::Io, format!("cannot run IPAM plugin {}: {error}", program.display()));
        let mut child = Command::new(&program)
            .env("CNI_COMMAND", command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(io)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that does not read its configuration says so by its status.
            let _ = stdin.write_all(self.stdin);
        }
        let output = child.wait_with_output().map_err(io)?;
        if output.status.success() { Ok(output.stdout) } else { Err(self.failure(command, &output.stdout)) }
    }

    fn failure(self, command: &str, out: &[u8]) -> CniError {
        let answer = serde_json::from_slice::<Value>(out).unwrap_or_default();
        let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let code = answer.get("code").and_then(Value::as_u64).and_then(|code| u32::try_from(code).ok());
        let msg = format!("IPAM plugin {} failed at {command}: {}", self.name, text("msg"));
        CniError::new(code.map_or(Code::Failed, Code::Delegated), msg).with_details(text("details"))
    }

    fn find(self) -> Result<PathBuf, CniError> {
        let name = self.name;
        let path = self.environment.path.as_deref().unwrap_or_default();
        if name.contains('/') || name.starts_with('.') {
            return Err(CniError::new(Code::InvalidConfig, format!("ipam.type {name:?} is no plugin's name")));
        }
        let candidates = path.split(':').filter(|folder| !folder.is_empty()).map(|folder| PathBuf::from(folder).join(name));
        candidates.into_iter().find(|candidate| candidate.is_file()).ok_or_else(|| {
            CniError::new(Code::InvalidEnvironment, format!("there is no IPAM plugin {name} in CNI_PATH {path}"))
                .with_details("install it there, or change ipam.type")
        })
    }
}
