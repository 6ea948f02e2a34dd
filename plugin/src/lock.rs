//! Locks of files, waited for with a limit. Which file stands for what is its owner's business.

use std::{
    fs::{File, TryLockError},
    io, thread,
    time::Duration,
};

/// Takes the flock within `patience`; whether it was got. `flock` knows no time limit, hence the asking again and again,
/// first at the pace of a short critical section, then slower.
pub(crate) fn wait_for(file: &File, patience: Duration) -> io::Result<bool> {
    let mut pause = Duration::from_micros(20);
    let mut waited = Duration::ZERO;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if waited >= patience => return Ok(false),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        thread::sleep(pause);
        waited += pause;
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}
