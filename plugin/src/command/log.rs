//! The log: one line a command, appended in one write after the answer (safety rule CM6). The agent rotates it.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use azure_vnet_plugin_core::{error::CniError, request::Environment};

use super::Done;

/// Appends the line of a command. A log that cannot be written is no reason to fail.
pub(super) fn append(path: &Path, environment: &Environment, took: Duration, result: &Result<Done, CniError>) {
    let line = line(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), environment, took, result);
    if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) {
        let _ = file.write_all(line.as_bytes());
    }
}

fn line(now: Duration, environment: &Environment, took: Duration, result: &Result<Done, CniError>) -> String {
    let text = |value: &Option<String>| quoted(value.as_deref().unwrap_or("-"));
    let (level, what) = match result {
        Ok(done) => ("info", format!("msg={}", quoted(&done.what))),
        Err(error) => ("error", format!("code={} msg={} details={}", error.code.number(), quoted(&error.msg), quoted(&error.details))),
    };
    format!(
        "time={} level={level} command={} container={} interface={} netns={} took_us={} pid={} {what}\n",
        timestamp(now),
        text(&environment.command),
        text(&environment.container_id),
        text(&environment.if_name),
        text(&environment.netns),
        took.as_micros(),
        std::process::id(),
    )
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

    #[test]
    fn a_command_is_one_line_whatever_its_texts() {
        let environment = Environment { command: Some("ADD".into()), container_id: Some("a\nb".into()), ..Environment::default() };
        let error = Err(CniError::new(Code::TryAgain, "no \"address\"\n").with_details("wait"));
        let line = line(Duration::from_millis(1_790_000_000_123), &environment, Duration::from_micros(812), &error);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.starts_with("time=2026-09-21T14:13:20.123Z level=error command=ADD container=\"a\\nb\" "), "{line}");
    }

    #[test]
    fn leap_days_are_dates() {
        assert_eq!(timestamp(Duration::from_secs(951_782_401)), "2000-02-29T00:00:01.000Z");
        assert_eq!(timestamp(Duration::ZERO), "1970-01-01T00:00:00.000Z");
    }
}
