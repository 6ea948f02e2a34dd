//! What a plugin answers when it cannot do what it is asked: the specification's codes, and the JSON that carries them.

use std::fmt;

use serde_json::{Value, json};

use crate::version::CniVersion;

/// Codes of the CNI specification, as far as these plugins use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// 1: the configuration's version is not supported, or has no such command.
    IncompatibleVersion,
    /// 2: a field has a value that this plugin does not know.
    UnsupportedField,
    /// 3: the container is not attached.
    UnknownContainer,
    /// 4: a variable of the environment is missing or malformed.
    InvalidEnvironment,
    /// 5: reading or writing failed.
    Io,
    /// 6: the configuration is no JSON object.
    Decode,
    /// 7: the configuration contradicts itself or the plugin.
    InvalidConfig,
    /// 11: the same may succeed later.
    TryAgain,
    /// 50: no ADD can succeed at the moment.
    Unavailable,
    /// 100: anything else.
    Failed,
    /// A delegated plugin's own code.
    Delegated(u32),
}

impl Code {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnsupportedField => 2,
            Self::UnknownContainer => 3,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::InvalidConfig => 7,
            Self::TryAgain => 11,
            Self::Unavailable => 50,
            Self::Failed => 100,
            Self::Delegated(code) => code,
        }
    }
}

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// The specification's code.
    pub code: Code,
    /// What failed on what.
    pub msg: String,
    /// What to do about it, or more about why.
    pub details: String,
}

impl CniError {
    /// An answer without details.
    #[must_use]
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_details(self, details: impl Into<String>) -> Self {
        Self { details: details.into(), ..self }
    }

    /// The same with another code.
    #[must_use]
    pub fn with_code(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// Takes an error of ours, its sources included.
    #[must_use]
    pub fn because(code: Code, error: &dyn std::error::Error) -> Self {
        Self::new(code, chain(error))
    }

    /// The answer to a DEL: runtimes take a text with "not found" for success, so that none may contain it (safety rule CM2).
    #[must_use]
    pub fn for_del(self) -> Self {
        Self { code: self.code, msg: without_not_found(&self.msg), details: without_not_found(&self.details) }
    }

    /// The JSON on standard output.
    #[must_use]
    pub fn print(&self, version: CniVersion) -> Value {
        let Self { code, msg, details } = self;
        let mut answer = json!({ "cniVersion": version.as_str(), "code": code.number(), "msg": msg });
        if let (false, Some(object)) = (details.is_empty(), answer.as_object_mut()) {
            object.insert("details".to_owned(), Value::from(details.as_str()));
        }
        answer
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.msg, self.code.number())
    }
}

/// An error and its sources, joined by colons.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn without_not_found(text: &str) -> String {
    const FORBIDDEN: &str = "not found";
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.to_ascii_lowercase().find(FORBIDDEN) {
        kept.push_str(rest.get(..at).unwrap_or_default());
        kept.push_str("missing");
        rest = rest.get(at + FORBIDDEN.len()..).unwrap_or_default();
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_del_never_says_not_found() {
        let error = CniError::new(Code::TryAgain, "É: Link Not Found, not found").with_details("a not found b").for_del();
        assert_eq!((error.msg.as_str(), error.details.as_str()), ("É: Link missing, missing", "a missing b"));
    }

    #[test]
    fn details_are_left_out_when_there_are_none() {
        let error = CniError::new(Code::TryAgain, "later");
        assert_eq!(error.print(CniVersion::V0_4_0).to_string(), r#"{"cniVersion":"0.4.0","code":11,"msg":"later"}"#);
        let error = error.with_details("wait");
        assert_eq!(error.print(CniVersion::V1_1_0).to_string(), r#"{"cniVersion":"1.1.0","code":11,"details":"wait","msg":"later"}"#);
    }
}
