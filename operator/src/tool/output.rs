//! Prints a view as text, JSON or YAML.

use std::{fmt::Display, io::Write as _};

use anyhow::Context as _;
use serde::Serialize;

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

impl Format {
    /// Prints to standard output.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn print<View: Display + Serialize>(self, view: &View) -> anyhow::Result<()> {
        let text = match self {
            Self::Table => view.to_string(),
            Self::Json => serde_json::to_string_pretty(view)? + "\n",
            Self::Yaml => serde_saphyr::to_string(view)?,
        };
        match std::io::stdout().write_all(text.as_bytes()) {
            // Whoever reads has seen enough: `| head`.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => written.context("cannot write to standard output"),
        }
    }
}
