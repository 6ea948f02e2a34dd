//! What `resolvectl` says of a link: `Link 2 (eth0): 168.63.129.16`, with a line for each link that is asked for.

/// The servers or domains in an answer about one link, word for word as `resolvectl` takes them.
#[must_use]
pub fn words(answer: &str) -> Vec<String> {
    let of_link = answer.lines().find_map(|line| line.strip_prefix("Link ")?.split_once("):"));
    of_link.map(|(_, words)| words.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_link_follow_its_name() {
        assert_eq!(words("Link 2 (eth0): 168.63.129.16 fd00::1%2#dns.example\n"), ["168.63.129.16", "fd00::1%2#dns.example"]);
        assert_eq!(words("Link 2 (eth0): ~. a.internal.cloudapp.net\n"), ["~.", "a.internal.cloudapp.net"]);
        for none in ["", "Link 2 (eth0):\n", "Link 2 (eth0): \n", "Global: 1.1.1.1\n", "Failed\n"] {
            assert_eq!(words(none), Vec::<String>::new(), "{none:?}");
        }
    }
}
