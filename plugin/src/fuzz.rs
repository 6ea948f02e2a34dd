//! What the kernel answers, as its tables once stood and in mutations: none of it makes a reader panic or read for ever.

#[path = "../core/tests/mutation/mod.rs"]
mod mutation;

use std::path::Path;

use crate::{
    frames, netlink,
    netlink::socket::{Message, split_message},
};

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                mutation::replay(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(stringify!($name)), targets::$name);
            }
        )*

        #[test]
        fn every_corpus_has_a_target() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
            let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

targets! { netlink rules }

mod targets {
    /// Links, addresses, routes, neighbours, and refusals.
    pub(super) fn netlink(input: &[u8]) {
        super::each(input, super::netlink::read);
    }

    /// Rules for frames.
    pub(super) fn rules(input: &[u8]) {
        super::each(input, super::frames::read);
    }
}

/// How many messages tell of something.
fn each(mut rest: &[u8], read: fn(&Message<'_>) -> bool) -> usize {
    let mut tell = 0;
    while let Ok(Some((message, after))) = split_message(rest) {
        assert!(after.len() < rest.len(), "a message that takes no room would come for ever");
        rest = after;
        let _ = message.errno();
        tell += usize::from(read(&message));
    }
    tell
}

#[test]
fn the_corpus_is_what_is_read() {
    let corpus = |name: &str| std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)).unwrap();
    for name in ["links", "addresses", "routes", "neighbours", "way"] {
        assert!(each(&corpus(&format!("netlink/{name}")), netlink::read) > 0, "{name}");
    }
    assert_eq!(["bridge", "services"].map(|name| each(&corpus(&format!("rules/{name}")), frames::read)), [2, 1]);
}
