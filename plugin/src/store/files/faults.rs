//! Fails or stops this thread's process at its n-th change of a file system, and remembers what of a durable folder a power cut would spare.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// What happens at the chosen step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Fault {
    /// The process is dead from there on.
    Kill,
    /// The one operation fails.
    Error(io::ErrorKind),
}

#[derive(Default)]
struct State {
    fault: Option<(u32, Fault)>,
    steps: u32,
    has_struck: bool,
    is_dead: bool,
    synced_files: BTreeSet<u64>,
    spared: BTreeMap<PathBuf, BTreeMap<String, Vec<u8>>>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// Makes the `at`-th change from here on fail, the first being 1. No folder is followed yet.
pub(in crate::store) fn strike(at: u32, fault: Fault) {
    STATE.with_borrow_mut(|state| *state = State { fault: Some((at, fault)), ..State::default() });
}

/// Ends the fault; whether it struck.
pub(in crate::store) fn end() -> bool {
    STATE.with_borrow_mut(|state| {
        (state.fault, state.is_dead) = (None, false);
        state.has_struck
    })
}

/// How many changes there were since [`strike`].
pub(in crate::store) fn steps() -> u32 {
    STATE.with_borrow(|state| state.steps)
}

/// Takes what lies in the folder for durable, and follows it from here on.
pub(in crate::store) fn follow(folder: &Path) {
    let files = contents(folder, |_| true);
    let inodes = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().ino());
    STATE.with_borrow_mut(|state| {
        state.synced_files.extend(inodes);
        state.spared.insert(folder.to_owned(), files);
    });
}

/// Loses all of the followed folders that was not synced.
pub(in crate::store) fn cut_power() {
    for (folder, files) in STATE.with_borrow(|state| state.spared.clone()) {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            fs::remove_file(entry.path()).unwrap();
        }
        for (name, content) in files {
            fs::write(folder.join(name), content).unwrap();
        }
    }
}

pub(super) fn step(operation: &str, path: &Path) -> io::Result<()> {
    STATE.with_borrow_mut(|state| {
        state.steps += 1;
        let is_struck = state.fault.is_some_and(|(at, _)| at == state.steps);
        state.has_struck |= is_struck;
        match state.fault {
            Some((_, Fault::Kill)) if is_struck || state.is_dead => {
                state.is_dead = true;
                return Err(io::Error::other("killed"));
            }
            Some((_, Fault::Error(kind))) if is_struck => return Err(kind.into()),
            Some(_) | None => {}
        }
        match operation {
            "write" => _ = state.synced_files.remove(&fs::metadata(path)?.ino()),
            "sync" => _ = state.synced_files.insert(fs::metadata(path)?.ino()),
            _ => {}
        }
        Ok(())
    })
}

pub(super) fn synced(folder: &Path) {
    STATE.with_borrow_mut(|state| {
        let synced_files = &state.synced_files;
        let files = contents(folder, |inode| synced_files.contains(&inode));
        if let Some(spared) = state.spared.get_mut(folder) {
            *spared = files;
        }
    });
}

/// The folder's files; those whose content was not synced are empty.
fn contents(folder: &Path, is_synced: impl Fn(u64) -> bool) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(Result::unwrap).filter(|entry| entry.path().is_file());
    let content =
        |entry: &fs::DirEntry| if is_synced(entry.metadata().unwrap().ino()) { fs::read(entry.path()).unwrap() } else { Vec::new() };
    entries.map(|entry| (entry.file_name().into_string().unwrap(), content(&entry))).collect()
}
