//! Follows the plugin's log, one line a command, from where it stood when the agent began.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use azure_vnet_operator_core::command_log::{self, Command};

/// The most that is read at once; what is beyond has its turn the next time.
const MOST_BYTES: u64 = 1 << 20;

/// A log that is appended to, and moved aside from time to time.
#[derive(Debug)]
pub struct Commands {
    path: PathBuf,
    open: Option<File>,
    /// What was read of a line that had no end yet.
    begun: Vec<u8>,
}

impl Commands {
    /// Begins at the log's end: what was before is another agent's.
    pub fn follow(folder: &Path) -> Self {
        let path = folder.join("azure-vnet.log");
        let open = File::open(&path).ok().and_then(|mut file| file.seek(SeekFrom::End(0)).is_ok().then_some(file));
        Self { path, open, begun: vec![] }
    }

    /// The commands since the last time. A log that cannot be read has none.
    pub fn take(&mut self) -> Vec<Command> {
        let mut found = self.read();
        if !self.is_current() {
            self.begun.clear();
            self.open = File::open(&self.path).ok();
            found.extend(self.read());
        }
        found
    }

    fn read(&mut self) -> Vec<Command> {
        let Some(file) = &mut self.open else { return vec![] };
        if file.take(MOST_BYTES).read_to_end(&mut self.begun).is_err() {
            self.open = None;
            return vec![];
        }
        let Some(end) = self.begun.iter().rposition(|byte| *byte == b'\n') else {
            if u64::try_from(self.begun.len()).is_ok_and(|length| length >= MOST_BYTES) {
                self.begun.clear();
            }
            return vec![];
        };
        let rest = self.begun.split_off(end + 1);
        let whole = std::mem::replace(&mut self.begun, rest);
        String::from_utf8_lossy(&whole).lines().filter_map(command_log::parse).collect()
    }

    /// Whether what is open is the log still: it is moved aside when it has grown long.
    fn is_current(&self) -> bool {
        let Some(open) = self.open.as_ref().and_then(|file| file.metadata().ok()) else { return false };
        fs::metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == (open.dev(), open.ino()))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write as _};

    use super::*;

    #[test]
    fn each_command_since_the_start_is_seen_once_also_when_the_log_is_moved_or_a_line_is_half_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("azure-vnet.log");
        let write = |text: &str| OpenOptions::new().append(true).create(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
        let line = |code: u32| format!("command=ADD outcome=failed code={code} ms=1.0\n");
        write(&line(1));
        let mut commands = Commands::follow(folder.path());
        let mut codes = || commands.take().iter().map(|command| command.code).collect::<Vec<_>>();
        assert_eq!(codes(), Vec::<u32>::new());
        write(&line(2));
        let third = line(3);
        let (half, other) = third.split_at(9);
        write(half);
        assert_eq!(codes(), [2]);
        write(other);
        fs::rename(&path, folder.path().join("azure-vnet.log.1")).unwrap();
        write(&line(4));
        assert_eq!(codes(), [3, 4]);
        assert_eq!(codes(), Vec::<u32>::new());
        fs::remove_file(&path).unwrap();
        assert_eq!(codes(), Vec::<u32>::new());
        write(&line(5));
        assert_eq!(codes(), [5]);
    }
}
