//! Every parser of the core crate on its corpus and on mutations of it: none panics, none takes for ever, and what it reads of the node's own
//! formats it prints the same.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

mod mutation;

use std::path::Path;

use azure_vnet_plugin_core::{
    answer::Answer,
    conf::Role,
    frames::Comment,
    lease::Entry,
    memory::Remembered,
    original,
    pool::{Pool, Sealed, StoreRecord},
    queue::FreeQueue,
    request::{Environment, Request},
    resolvers,
    source::{Learned, file, http, imds, pace::Attempt, wireserver},
    version::CniVersion,
    wiring::Alias,
};
use serde_json::Value;

macro_rules! targets {
    ($($name:ident)*) => {
        mod every_input_ends_without_a_panic {
            $(
                #[test]
                fn $name() {
                    super::mutation::replay(&super::corpus(stringify!($name)), super::$name);
                }
            )*
        }

        #[test]
        fn every_corpus_has_a_target() {
            let mut names: Vec<_> = std::fs::read_dir(corpus("")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            let mut targets = vec![$(stringify!($name)),*];
            targets.sort_unstable();
            assert_eq!(names, targets);
        }
    };
}

targets! { alias answer comment file http imds original queue record request resolvers rules wireserver }

fn corpus(target: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

#[test]
fn every_record_of_the_corpus_is_whole() {
    for file in std::fs::read_dir(corpus("record")).unwrap().map(|file| file.unwrap().path()) {
        let bytes = sealed(&std::fs::read(&file).unwrap());
        let is_read = Entry::parse(&bytes).is_ok()
            || Pool::parse(&bytes).is_ok()
            || Sealed::parse(&bytes).is_ok()
            || StoreRecord::parse(&bytes).is_ok()
            || Remembered::parse(&bytes).is_ok()
            || Learned::parse(&bytes).is_ok()
            || Attempt::parse(&bytes).is_some();
        assert!(is_read, "{}: {:?}", file.display(), Entry::parse(&bytes));
    }
}

/// Command and `CNI_ARGS`, a line each, then the configuration.
fn request(input: &[u8]) {
    let mut parts = input.splitn(3, |byte| *byte == b'\n');
    let mut text = || parts.next().map(|part| String::from_utf8_lossy(part).into_owned());
    let (command, args) = (text(), text());
    let stdin = parts.next().unwrap_or_default();
    let fixed = |text: &str| Some(text.to_owned());
    let environment = Environment {
        command: command.clone(),
        container_id: fixed("c0ffee"),
        netns: fixed("/run/netns/c0ffee"),
        if_name: fixed("eth0"),
        args: args.clone(),
        path: fixed("/opt/cni/bin"),
    };
    let names = Environment { container_id: args.clone(), netns: args.clone(), if_name: args, ..environment.clone() };
    for (environment, role) in [(&environment, Role::Network), (&environment, Role::Ipam), (&names, Role::Network)] {
        if let Err((version, error)) = Request::parse(environment, stdin, role) {
            assert!(error.print(version)["code"].is_u64());
        }
    }
}

fn answer(input: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(input) else { return };
    if let Ok(answer) = Answer::parse(&value) {
        for version in CniVersion::ALL {
            let printed = answer.print(version);
            assert!(Answer::parse(&printed).is_ok(), "{version:?}: {printed}");
        }
    }
}

/// Every kind of record, with the checksum that its content should have.
fn record(input: &[u8]) {
    for bytes in [input.to_vec(), sealed(input)] {
        if let Ok(entry) = Entry::parse(&bytes) {
            let printed = match &entry {
                Entry::Leased(lease) => lease.print(),
                Entry::Cooling(cooling) => cooling.print(),
                Entry::Quarantined(quarantine) => quarantine.print(),
                Entry::Unreadable(unreadable) => panic!("{unreadable:?} was parsed"),
            };
            assert_eq!(Entry::parse(printed.as_bytes()).as_ref(), Ok(&entry));
        }
        same(&bytes, Pool::parse, Pool::print);
        same(&bytes, Sealed::parse, Sealed::print);
        same(&bytes, StoreRecord::parse, StoreRecord::print);
        same(&bytes, Remembered::parse, Remembered::print);
        same(&bytes, Learned::parse, Learned::print);
        if let Some(attempt) = Attempt::parse(&bytes) {
            assert_eq!(Attempt::parse(attempt.print().as_bytes()).as_ref(), Some(&attempt));
        }
    }
}

fn same<T: PartialEq + std::fmt::Debug, E: std::fmt::Debug + PartialEq>(
    bytes: &[u8],
    parse: fn(&[u8]) -> Result<T, E>,
    print: fn(&T) -> String,
) {
    if let Ok(value) = parse(bytes) {
        assert_eq!(parse(print(&value).as_bytes()), Ok(value));
    }
}

/// The record with the right checksum in its first line: else hardly a mutation would come further than to it.
fn sealed(input: &[u8]) -> Vec<u8> {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return input.to_vec() };
    let (head, body) = (String::from_utf8_lossy(&input[..end]).into_owned(), &input[end + 1..]);
    let kind = head.split(' ').nth(2).unwrap_or_default().to_owned();
    let checksum = crc32fast::hash(&[kind.as_bytes(), b"\n", body].concat());
    [format!("azure-vnet 1 {kind} {checksum:08x}\n").as_bytes(), body].concat()
}

fn queue(input: &[u8]) {
    let checked = |bytes: &[u8]| {
        let queue = FreeQueue::parse(bytes);
        assert_eq!(FreeQueue::parse(&queue.print()), queue);
    };
    checked(input);
    if let Some((magic, rest)) = input.split_first_chunk::<4>()
        && let Some((_, body)) = rest.split_first_chunk::<4>()
    {
        checked(&[magic.as_slice(), &crc32fast::hash(body).to_be_bytes(), body].concat());
    }
}

fn alias(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(alias) = text.parse::<Alias>() {
        assert_eq!(alias.to_string().parse::<Alias>().as_ref(), Ok(&alias));
    }
}

/// What the kernel keeps with a rule.
fn comment(input: &[u8]) {
    if let Some(comment) = Comment::parse(&String::from_utf8_lossy(input)) {
        assert_eq!(Comment::parse(&comment.to_string()), Some(comment));
    }
}

fn wireserver(input: &[u8]) {
    let _ = wireserver::parse(input);
}

fn imds(input: &[u8]) {
    let _ = imds::parse(input);
}

fn file(input: &[u8]) {
    let _ = file::parse(input);
}

/// Both state files, with a line between them.
fn original(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == 0x1e);
    let (network, ipam) = (parts.next(), parts.next());
    let found = original::endpoints(network, ipam);
    let addresses: std::collections::BTreeSet<_> = found.iter().map(|endpoint| endpoint.address).collect();
    assert_eq!(addresses.len(), found.len(), "an address comes once");
}

/// What `ebtables` lists of the original's.
fn rules(input: &[u8]) {
    let listing = String::from_utf8_lossy(input);
    for rule in original::rules::rules(&listing) {
        assert!(["PREROUTING", "POSTROUTING"].contains(&rule[0]) && rule[1].starts_with('-'), "{rule:?}");
    }
}

fn resolvers(input: &[u8]) {
    let words = resolvers::words(&String::from_utf8_lossy(input));
    assert!(words.iter().all(|word| !word.is_empty() && !word.contains(char::is_whitespace)));
}

fn http(input: &[u8]) {
    let whole = http::body(input, true);
    // A prefix is not taken for more than it is.
    if let Ok(Some(partial)) = http::body(&input[..input.len() / 2], false) {
        assert!(whole.is_ok_and(|whole| whole.is_some_and(|whole| whole.starts_with(&partial))));
    }
}
