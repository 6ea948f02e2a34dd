//! Logs: to standard error, as text for people or as JSON for collectors.

use anyhow::Context as _;
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// How logs are written.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Logs")]
pub struct LogOptions {
    /// Form of the logs.
    #[arg(long, global = true, env = "AZURE_VNET_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// error, warn, info, debug, trace or off, also by module: `info,kube_client=debug`.
    #[arg(long, global = true, env = "AZURE_VNET_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
}

/// Form of the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl LogOptions {
    /// Starts logging for the process.
    ///
    /// # Errors
    /// The level cannot be read, or logging was started before.
    pub fn install(&self) -> anyhow::Result<()> {
        let filter: Targets =
            self.log_level.parse().with_context(|| format!("--log-level {:?} is not a level or a list of module=level", self.log_level))?;
        let registry = tracing_subscriber::registry().with(filter);
        match self.log_format {
            LogFormat::Text => registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(false)).try_init(),
            LogFormat::Json => registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init(),
        }
        .context("cannot start logging")
    }
}
