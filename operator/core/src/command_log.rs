//! What the plugin's log says of one command, for counts. It reads the lines that `azure-vnet` appends and knows no file.

use std::time::Duration;

/// One command, as far as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Which: one of those that the specification has, else `other`.
    pub name: &'static str,
    /// 0, or the error's code.
    pub code: u32,
    /// How long it took.
    pub took: Duration,
}

/// Reads a line; `None` for one that is none of ours or was cut.
#[must_use]
pub fn parse(line: &str) -> Option<Command> {
    let (mut name, mut code, mut took) = (None, None, None);
    for (key, value) in fields(line) {
        match key {
            "command" => name = Some(known(value)),
            "outcome" if value == "ok" => code = Some(0),
            "code" => code = Some(value.parse().ok()?),
            "ms" => took = Some(value.parse::<f64>().ok()?),
            _ => {}
        }
    }
    Some(Command { name: name?, code: code?, took: Duration::try_from_secs_f64(took? / 1000.0).ok()? })
}

fn known(name: &str) -> &'static str {
    let names = ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"];
    names.into_iter().find(|known| *known == name).unwrap_or("other")
}

/// The line's `key=value` pairs. A value in quotes may hold anything, also what looks like a pair.
fn fields(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let (key, after) = rest.trim_start().split_once('=')?;
        let end = match after.strip_prefix('"') {
            Some(quoted) => closing(quoted)? + 2,
            None => after.find(' ').unwrap_or(after.len()),
        };
        let (value, after) = after.split_at_checked(end)?;
        rest = after;
        Some((key, value))
    })
}

/// Where a text in quotes ends, whose own quotes and backslashes have a backslash before them.
fn closing(quoted: &str) -> Option<usize> {
    let mut escaped = false;
    quoted.char_indices().find_map(|(at, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = "time=2026-09-21T14:13:20.123Z level=info command=ADD container=c1 interface=eth0";

    #[test]
    fn a_line_tells_command_code_and_time() {
        let done = format!("{START} address=10.0.0.5 outcome=ok msg=leased ms=2.812 netns=/run/netns/a pid=7");
        assert_eq!(parse(&done), Some(Command { name: "ADD", code: 0, took: Duration::from_micros(2_812) }));
        let failed = format!("{START} address=- outcome=failed code=11 msg=\"no address\" details=\"wait\" ms=20.000 netns=- pid=7");
        assert_eq!(parse(&failed), Some(Command { name: "ADD", code: 11, took: Duration::from_millis(20) }));
    }

    #[test]
    fn texts_of_others_are_no_fields() {
        let line = format!(
            r#"{START} address=- outcome=failed code=7 msg="\" ms=9 code=0 command=DEL \\" details="a=\"b\"" ms=1.000 netns=- pid=7"#
        );
        assert_eq!(parse(&line), Some(Command { name: "ADD", code: 7, took: Duration::from_millis(1) }));
    }

    #[test]
    fn what_is_cut_or_unknown_counts_for_nothing_or_as_other() {
        for line in [
            "",
            "level",
            START,
            "command=ADD outcome=ok",
            "command=ADD outcome=ok ms=x",
            "command=ADD outcome=ok msg=\"a ms=1",
            "ms=-1 outcome=ok command=ADD",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
        assert_eq!(parse("command=\"rm -rf\" outcome=ok ms=0.1").map(|command| command.name), Some("other"));
    }
}
