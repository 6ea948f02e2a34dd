//! How many labs a machine has at once. Each one's nodes take some thirty inotify instances, of which the kernel gives a user 128: in a fifth
//! lab kubelets would not start; and each wants processors, where two serve three labs, which mostly wait.

use std::fs::{self, File, TryLockError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::build::{Cache, progress};

const SEATS: usize = 3;

/// Held by whoever has a lab up; the kernel takes it back from a process that dies. Labs that outlive their maker do not count.
#[derive(Debug)]
pub struct Seat {
    _lock: File,
}

impl Seat {
    /// Waits for a seat: another process's lab, or another test's, may have to end first.
    ///
    /// # Errors
    /// If the cache cannot be written.
    pub fn take(cache: &Cache) -> Result<Self> {
        let folder = cache.path("seats");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut told = false;
        loop {
            for seat in 0..SEATS {
                let file = File::create(folder.join(seat.to_string()))?;
                match file.try_lock() {
                    Ok(()) => return Ok(Self { _lock: file }),
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(error)) => return Err(error).context("cannot take a seat for a lab"),
                }
            }
            if !std::mem::replace(&mut told, true) {
                progress("waiting until one of the other labs has ended");
            }
            thread::sleep(Duration::from_millis(250));
        }
    }
}
