//! The log: one line a command, appended in one write after the answer (safety rule CM6). The agent rotates it; without one, plugins do.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use azure_vnet_plugin_core::{conf::LogLevel, error::CniError, request::Environment};

use super::Done;

/// From here on a log is moved aside. An agent moves it earlier, so that the two never meet.
const MOST_BYTES: u64 = 8 << 20;
/// Every so many processes, one looks how long the log is.
const LOOKS: u32 = 64;

/// What there is to say of a command.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) environment: &'a Environment,
    pub(super) took: Duration,
    pub(super) result: &'a Result<Done, CniError>,
}

/// Appends the line of a command. A log that cannot be written is no reason to fail.
pub(super) fn append(path: &Path, level: LogLevel, entry: &Entry<'_>) {
    if level < entry.level() {
        return;
    }
    let line = entry.line(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), level);
    let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) else { return };
    let _ = file.write_all(line.as_bytes());
    if std::process::id().is_multiple_of(LOOKS) {
        rotate(&file, path);
    }
}

/// Moves a log that is too long aside, over the one before it. Who has the log's flock does, and only if it is the log still.
fn rotate(file: &File, path: &Path) {
    let Ok(mine) = file.metadata() else { return };
    if mine.len() < MOST_BYTES || file.try_lock().is_err() {
        return;
    }
    if fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino())) {
        let mut aside = path.to_owned().into_os_string();
        aside.push(".1");
        let _ = fs::rename(path, aside);
    }
}

impl Entry<'_> {
    fn level(&self) -> LogLevel {
        // Runtimes ask every few seconds, and nothing has come of it.
        let is_look = self.environment.command.as_deref() == Some("STATUS");
        match self.result {
            Ok(Done { warning: None, .. }) if is_look => LogLevel::Debug,
            Ok(Done { warning: None, .. }) => LogLevel::Info,
            Ok(Done { warning: Some(_), .. }) => LogLevel::Warning,
            Err(_) => LogLevel::Error,
        }
    }

    fn line(&self, now: Duration, level: LogLevel) -> String {
        let Self { environment, took, result } = self;
        let text = |value: &Option<String>| quoted(value.as_deref().unwrap_or("-"));
        let address = |address: Option<IpAddr>| address.map_or_else(|| "-".to_owned(), |address| address.to_string());
        let outcome = match result {
            Ok(Done { address: given, what, warning }) => {
                let warning = warning.as_ref().map(|warning| format!(" warning={}", quoted(warning))).unwrap_or_default();
                format!("address={} outcome=ok msg={}{warning}", address(*given), quoted(what))
            }
            Err(error) => {
                let CniError { code, msg, details } = error;
                format!("address=- outcome=failed code={} msg={} details={}", code.number(), quoted(msg), quoted(details))
            }
        };
        let more = match level {
            LogLevel::Debug => format!(" args={} path={}", text(&environment.args), text(&environment.path)),
            LogLevel::Error | LogLevel::Warning | LogLevel::Info => String::new(),
        };
        let Environment { command, container_id, if_name, netns, args: _, path: _ } = environment;
        let (seconds, micros) = (took.as_millis(), took.subsec_micros() % 1000);
        format!(
            "time={} level={} command={} container={} interface={} {outcome} ms={seconds}.{micros:03} netns={} pid={}{more}\n",
            timestamp(now),
            self.level(),
            text(command),
            text(container_id),
            text(if_name),
            text(netns),
            std::process::id(),
        )
    }
}

fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':');
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

/// RFC 3339 in UTC with milliseconds. The date is Howard Hinnant's civil-from-days: <https://howardhinnant.github.io/date_algorithms.html>.
fn timestamp(now: Duration) -> String {
    let (seconds, millis) = (now.as_secs(), now.subsec_millis());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{millis:03}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use azure_vnet_plugin_core::error::Code;

    use super::*;

    fn line(result: &Result<Done, CniError>, level: LogLevel) -> String {
        let (command, container_id) = (Some("ADD".into()), Some("a\nb".into()));
        let environment = Environment { command, container_id, args: Some("A=1;B=2".into()), ..Environment::default() };
        let entry = Entry { environment: &environment, took: Duration::from_micros(2_812), result };
        entry.line(Duration::from_millis(1_790_000_000_123), level)
    }

    #[test]
    fn a_command_is_one_line_whatever_its_texts() {
        let error = Err(CniError::new(Code::TryAgain, "no \"address\"\n").with_details("wait"));
        let failed = line(&error, LogLevel::Info);
        assert_eq!(failed.matches('\n').count(), 1);
        let start =
            "time=2026-09-21T14:13:20.123Z level=error command=ADD container=\"a\\nb\" interface=- address=- outcome=failed code=11 ";
        assert!(failed.starts_with(start) && failed.contains(" ms=2.812 "), "{failed}");
        let done = Ok(Done::with([10, 0, 0, 5], "leased"));
        assert!(line(&done, LogLevel::Info).contains(" address=10.0.0.5 outcome=ok msg=leased "));
        let warned = line(&done.clone().map(|done| Done { warning: Some("no \n".into()), ..done }), LogLevel::Info);
        assert!(warned.contains(" level=warning ") && warned.contains(" outcome=ok msg=leased warning=\"no \\n\" "), "{warned}");
        assert!(!line(&done, LogLevel::Info).contains("A=1") && line(&done, LogLevel::Debug).contains(" args=\"A=1;B=2\""));
    }

    #[test]
    fn a_long_log_is_moved_once() {
        let folder = tempfile::tempdir().unwrap();
        let (path, aside) = (folder.path().join("log"), folder.path().join("log.1"));
        let open = || OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let (one, other) = (open(), open());
        rotate(&one, &path);
        assert!(path.exists(), "it is short");
        one.set_len(MOST_BYTES).unwrap();
        rotate(&one, &path);
        assert!(!path.exists() && aside.exists());
        let _new = open();
        rotate(&other, &path);
        assert!(path.exists(), "what is the log now is not what the other had open");
    }

    #[test]
    fn leap_days_are_dates() {
        assert_eq!(timestamp(Duration::from_secs(951_782_401)), "2000-02-29T00:00:01.000Z");
        assert_eq!(timestamp(Duration::ZERO), "1970-01-01T00:00:00.000Z");
    }
}
