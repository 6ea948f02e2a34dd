//! Small files, read whole in three calls to the kernel. The standard library asks for the length first and for the end last, and musl sets a flag
//! again that the open has set; a command reads ten files.

use std::{io, path::Path};

use rustix::{
    buffer::spare_capacity,
    fs::{Mode, OFlags},
    io::retry_on_intr,
};

/// Longer than any file of the store, but for pools of many addresses.
const MOST_LIKELY: usize = 4096;

/// The content of a file. A pipe that someone put in its place is empty, and not waited for.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?;
    let mut bytes = Vec::with_capacity(MOST_LIKELY);
    loop {
        let room = bytes.capacity() - bytes.len();
        let read = retry_on_intr(|| rustix::io::read(&file, spare_capacity(&mut bytes)))?;
        // Of a file, less than there was room for is all that there is.
        if read < room {
            return Ok(bytes);
        }
        bytes.reserve(bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
