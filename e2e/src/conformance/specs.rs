//! The two lists of specs: those that run, and those that do not, below the reason for it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// What all of them begin with.
const SIG: &str = "[sig-network]";

/// Both lists.
#[derive(Debug)]
pub struct Specs {
    run: Vec<String>,
    left_out: Vec<(String, String)>,
}

impl Specs {
    /// Reads `run.txt` and `left-out.txt` of a folder.
    ///
    /// # Errors
    /// If one cannot be read, names a spec that the other or itself names too, gives no reason, or has a line that is neither a spec nor a remark.
    pub fn read(folder: &Path) -> Result<Self> {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).with_context(|| format!("cannot read {name}"));
        Self::parse(&read("run.txt")?, &read("left-out.txt")?)
    }

    fn parse(run: &str, left_out: &str) -> Result<Self> {
        let run: Vec<String> = run.lines().filter(|line| !line.is_empty() && !line.starts_with("# ")).map(str::to_owned).collect();
        let mut reason = None;
        let mut others = vec![];
        for line in left_out.lines().filter(|line| !line.is_empty()) {
            match line.strip_prefix("# ") {
                Some(words) => reason = Some(words.to_owned()),
                None => others.push((line.to_owned(), reason.clone().with_context(|| format!("{line} has no reason before it"))?)),
            }
        }
        let mut names = BTreeSet::new();
        for name in run.iter().chain(others.iter().map(|(name, _)| name)) {
            ensure!(name.starts_with(SIG), "no spec of {SIG}, nor a remark: {name}");
            ensure!(names.insert(name), "named twice: {name}");
        }
        Ok(Self { run, left_out: others })
    }

    /// Those that run.
    #[must_use]
    pub fn run(&self) -> &[String] {
        &self.run
    }

    /// Those that do not, each with the reason.
    pub fn left_out(&self) -> impl Iterator<Item = (&str, &str)> {
        self.left_out.iter().map(|(name, reason)| (name.as_str(), reason.as_str()))
    }

    /// Makes sure that the lists name what the suite has, all of it and nothing else.
    ///
    /// # Errors
    /// Names what is in one and not in the other.
    pub fn cover(&self, suite: &[String]) -> Result<()> {
        let own: BTreeSet<&str> = self.run.iter().map(String::as_str).chain(self.left_out().map(|(name, _)| name)).collect();
        let theirs: BTreeSet<&str> = suite.iter().map(String::as_str).collect();
        let unlisted: Vec<&str> = theirs.difference(&own).copied().collect();
        let gone: Vec<&str> = own.difference(&theirs).copied().collect();
        ensure!(unlisted.is_empty(), "in neither list of e2e/conformance:\n{}", unlisted.join("\n"));
        ensure!(gone.is_empty(), "listed in e2e/conformance, and not in the suite:\n{}", gone.join("\n"));
        Ok(())
    }

    /// A regular expression that finds those that run, and no other.
    #[must_use]
    pub fn expression(&self) -> String {
        let names: Vec<String> = self.run.iter().map(|name| literal(name)).collect();
        format!(r"(?:{})\s*$", names.join("|"))
    }
}

/// The sig-network specs in what the suite prints of itself: one a line, after its place in the source.
pub(super) fn listed(printed: &str) -> Vec<String> {
    let name = |line: &str| line.split_once(&format!(": {SIG}")).map(|(_, rest)| format!("{SIG}{}", rest.trim_end()));
    printed.lines().filter_map(name).collect()
}

fn literal(text: &str) -> String {
    text.chars().fold(String::new(), |mut expression, letter| {
        if r"\.+*?()|[]{}^$".contains(letter) {
            expression.push('\\');
        }
        expression.push(letter);
        expression
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "[sig-network] DNS should resolve (all) [Conformance]\n[sig-network] Services a|b\n";
    const LEFT_OUT: &str = "# needs a cloud\n[sig-network] LoadBalancers work\n\n# needs IPv6\n[sig-network] Six\n";

    #[test]
    fn names_are_told_apart_by_reason_and_found_by_nothing_but_themselves() {
        let specs = Specs::parse(RUN, LEFT_OUT).unwrap();
        assert_eq!(specs.run().len(), 2);
        let left_out: Vec<_> = specs.left_out().collect();
        assert_eq!(left_out, [("[sig-network] LoadBalancers work", "needs a cloud"), ("[sig-network] Six", "needs IPv6")]);
        let expected = r"(?:\[sig-network\] DNS should resolve \(all\) \[Conformance\]|\[sig-network\] Services a\|b)\s*$";
        assert_eq!(specs.expression(), expected);
    }

    #[test]
    fn a_spec_in_neither_list_and_one_that_is_gone_are_errors() {
        let specs = Specs::parse(RUN, LEFT_OUT).unwrap();
        let printed = "All:\n    network/dns.go:1: [sig-network] DNS should resolve (all) [Conformance]\n    x.go:2: [sig-network] Services a|b\n    \
                       y.go:3: [sig-network] LoadBalancers work\n    z.go:4: [sig-network] Six\n    w.go:5: [sig-node] Pods\n";
        specs.cover(&listed(printed)).unwrap();
        let more = listed(&format!("{printed}    v.go:6: [sig-network] Another\n"));
        assert!(specs.cover(&more).unwrap_err().to_string().contains("neither list of e2e/conformance:\n[sig-network] Another"));
        let less = listed(&printed.replace("[sig-network] Six", "[sig-node] Six"));
        assert!(specs.cover(&less).unwrap_err().to_string().contains("[sig-network] Six"));
    }

    #[test]
    fn the_lists_hold_what_they_should() {
        let specs = Specs::read(&crate::build::checkout().join("e2e/conformance")).unwrap();
        let in_form = |name: &str| name.starts_with(SIG) && name == name.trim_end();
        assert!(specs.run().iter().map(String::as_str).chain(specs.left_out().map(|(name, _)| name)).all(in_form));
        let conformance: Vec<_> = specs.left_out().filter(|(name, _)| name.contains("[Conformance]")).collect();
        assert_eq!(conformance, [], "none of those that count is left out");
    }

    #[test]
    fn a_spec_is_named_once_and_left_out_for_a_reason() {
        assert!(Specs::parse(RUN, &format!("# no\n{RUN}")).unwrap_err().to_string().contains("named twice"));
        assert!(Specs::parse(RUN, "[sig-network] Six\n").unwrap_err().to_string().contains("no reason"));
        for (run, left_out) in [("[sig-netwrok] DNS works\n", LEFT_OUT), (RUN, "# no\nDNS works\n")] {
            assert!(Specs::parse(run, left_out).unwrap_err().to_string().contains("DNS works"), "it would be left out without a word");
        }
    }
}
