//! Files as they are opened and read by a command that handles a dozen: the standard library asks for the length first and for the end last, and
//! musl sets a flag again that the open has set.

use std::{fs::File, io, path::Path};

use rustix::{
    buffer::spare_capacity,
    fs::{Mode, OFlags, Stat},
    io::{Errno, retry_on_intr},
};

/// Longer than most of what is read: a configuration, a lease. What room is left over moves all that comes later on by as much, onto other pages.
const MOST_LIKELY: usize = 1024;
/// Longer than any pool; what is longer is read in pieces.
const LONGEST: usize = 1 << 16;

/// A file that was read, held open: as long as it is, no other file has its number.
#[derive(Debug)]
pub(crate) struct Seen {
    _file: File,
    state: State,
    /// What it held.
    pub(crate) bytes: Vec<u8>,
}

/// Which file it is, and which of its contents: number, length, time of the last change.
type State = (u64, u64, i64, i64, u64);

impl Seen {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let file = open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let state = rustix::fs::fstat(&file)?;
        let length = usize::try_from(state.st_size).unwrap_or_default().min(LONGEST);
        let bytes = collect(length + 1, |bytes| rustix::io::read(&file, spare_capacity(bytes)))?;
        Ok(Self { _file: file, state: state_of(&state), bytes })
    }

    /// Whether the name leads to this file still, and nobody wrote to it.
    pub(crate) fn is_at(&self, path: &Path) -> io::Result<bool> {
        match rustix::fs::stat(path) {
            Ok(state) => Ok(state_of(&state) == self.state),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn state_of(state: &Stat) -> State {
    let Stat { st_dev, st_ino, st_size, st_mtime, st_mtime_nsec, .. } = *state;
    (st_dev, st_ino, st_size, st_mtime, st_mtime_nsec)
}

/// The content of a file. A pipe that someone put in its place is empty, and not waited for.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    collect(MOST_LIKELY, |bytes| rustix::io::read(&file, spare_capacity(bytes)))
}

/// All of standard input, or more than `most` of it where it is longer, without the buffer that the standard library would have for it.
pub(crate) fn input(most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(MOST_LIKELY);
    while bytes.len() <= most && retry_on_intr(|| rustix::io::read(rustix::stdio::stdin(), spare_capacity(&mut bytes)))? > 0 {
        bytes.reserve(1);
    }
    Ok(bytes)
}

/// Writes all of it to standard output, without the buffer that the standard library would have for it.
pub(crate) fn output(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match retry_on_intr(|| rustix::io::write(rustix::stdio::stdout(), bytes))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = bytes.get(written..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// The content of an open file up to `most`, wherever its offset stands. It is `likely` shorter than that.
pub(crate) fn read_whole(file: &File, likely: usize, most: usize) -> io::Result<Vec<u8>> {
    collect(likely, |bytes| match bytes.len() {
        read if read >= most => Ok(0),
        read => rustix::io::pread(file, spare_capacity(bytes), read.try_into().unwrap_or(u64::MAX)),
    })
}

/// Opens a file, which programs that are run do not get. Where it is made, only its owner may use it.
pub(crate) fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let file = retry_on_intr(|| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR))?;
    Ok(file.into())
}

/// Reads until there is less than there was room for, which of a file is the end.
fn collect(likely: usize, mut read: impl FnMut(&mut Vec<u8>) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(likely);
    loop {
        let room = bytes.capacity() - bytes.len();
        if retry_on_intr(|| read(&mut bytes))? < room {
            return Ok(bytes);
        }
        bytes.reserve(bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_replaced_or_written_to_is_not_the_one_that_was_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        std::fs::write(&path, "one").unwrap();
        let seen = Seen::read(&path).unwrap();
        assert!(seen.bytes == b"one" && seen.is_at(&path).unwrap());
        std::fs::write(&other, "one").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(!seen.is_at(&path).unwrap(), "the same words in another file");
        let seen = Seen::read(&path).unwrap();
        std::fs::write(&path, "three").unwrap();
        assert!(!seen.is_at(&path).unwrap(), "other words in the same file");
        std::fs::remove_file(&path).unwrap();
        assert!(!seen.is_at(&path).unwrap());
        for length in [0, 1, LONGEST - 1, LONGEST, 2 * LONGEST] {
            std::fs::write(&path, vec![7; length]).unwrap();
            assert_eq!(Seen::read(&path).unwrap().bytes.len(), length);
        }
    }

    #[test]
    fn files_of_any_length_are_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, MOST_LIKELY - 1, MOST_LIKELY, MOST_LIKELY + 1, 3 * MOST_LIKELY] {
            let content: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            std::fs::write(&path, &content).unwrap();
            assert_eq!(read(&path).unwrap(), content, "{length}");
        }
        assert_eq!(read(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(read(folder.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }
}
