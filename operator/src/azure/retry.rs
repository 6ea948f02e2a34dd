//! When to ask again, as answers say it: `Retry-After` in either form, and Azure's counts of what is left. Pure.

use std::time::Duration;

use http::{HeaderMap, header};
use jiff::{Timestamp, fmt::rfc2822};

use super::budget::Remaining;

/// Nobody is left alone for longer, whatever an answer says.
const LONGEST: Duration = Duration::from_hours(1);

/// `Retry-After`: seconds, or a date, which is compared with the sender's own clock (`Date`). An hour at most.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let value = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds).min(LONGEST));
    }
    let now = text(header::DATE).and_then(http_date).unwrap_or_else(Timestamp::now);
    let wait = http_date(value)?.duration_since(now);
    Some(Duration::try_from(wait).unwrap_or(Duration::ZERO).min(LONGEST))
}

/// A date as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
#[must_use]
pub fn http_date(text: &str) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

/// What Azure says is left, for a request of one kind (`reads` or `writes`).
#[must_use]
pub fn remaining(headers: &HeaderMap, kind: &str) -> Remaining {
    let arm =
        headers.get(format!("x-ms-ratelimit-remaining-subscription-{kind}")).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let lists = headers.get_all("x-ms-ratelimit-remaining-resource").iter().filter_map(|value| value.to_str().ok());
    let policies = lists.flat_map(|list| list.split(',')).filter_map(|entry| {
        let (policy, count) = entry.trim().rsplit_once(';')?;
        Some((policy.to_owned(), count.trim().parse().ok()?))
    });
    Remaining { arm, policies: policies.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn retry_after_in_both_forms() {
        let seconds = |list: &[_]| retry_after(&headers(list)).map(|wait| wait.as_secs());
        assert_eq!(seconds(&[("retry-after", "1200")]), Some(1200));
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(seconds(&[("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT"), date]), Some(30));
        assert_eq!(seconds(&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT"), date]), Some(0), "past");
        assert_eq!(seconds(&[("retry-after", "18446744073709551615")]), Some(3600), "nobody waits for ever");
        assert_eq!(seconds(&[("retry-after", "Mon, 07 Nov 1994 08:49:37 GMT"), date]), Some(3600));
        assert_eq!(seconds(&[("retry-after", "soon")]), None);
        assert_eq!(seconds(&[]), None);
    }

    #[test]
    fn counts_come_in_one_header_or_several() {
        let got = remaining(
            &headers(&[
                ("x-ms-ratelimit-remaining-resource", "Microsoft.Compute/HighCostGet3Min;46"),
                ("x-ms-ratelimit-remaining-resource", "Microsoft.Compute/A;7, Microsoft.Compute/B;x,junk"),
                ("x-ms-ratelimit-remaining-subscription-writes", "199"),
                ("x-ms-ratelimit-remaining-subscription-reads", "3"),
            ]),
            "writes",
        );
        let policies = vec![("Microsoft.Compute/HighCostGet3Min".to_owned(), 46), ("Microsoft.Compute/A".to_owned(), 7)];
        assert_eq!(got, Remaining { arm: Some(199), policies });
    }
}
