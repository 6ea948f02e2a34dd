//! Programs of the host, run for a while at most: where the kernel's own interface is theirs, and never on the way of a pod that starts on a
//! node whose network is there.

use std::{
    io,
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// The longest that a program may say.
const MOST_BYTES: usize = 1 << 20;

/// Where programs are where the runtime's `PATH` leads to none.
const FOLDERS: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What became of a program.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It cannot be run.
    #[error("cannot run {program}")]
    Run {
        /// Its name.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It fails.
    #[error("{command} failed: {said}")]
    Failed {
        /// The program and what it was to do.
        command: String,
        /// What it said.
        said: String,
    },
    /// It does not end.
    #[error("{program} does not answer in time")]
    Silent {
        /// Its name.
        program: String,
    },
}

/// Runs a program, found in the folders of `PATH` and of the system, and answers what it says. It is ended when the time is up.
///
/// # Errors
/// See [`ProgramError`].
pub fn run(program: &str, arguments: &[&str], until: Instant) -> Result<String, ProgramError> {
    let failed = |source| ProgramError::Run { program: program.to_owned(), source };
    let mut command = Command::new(program);
    let path = std::env::var("PATH").map_or_else(|_| FOLDERS.to_owned(), |path| format!("{path}:{FOLDERS}"));
    command.args(arguments).env("PATH", path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    // What it says is less than the pipe holds.
    if let Some(said) = &child.stdout {
        rustix::pipe::fcntl_setpipe_size(said, MOST_BYTES).map_err(|errno| failed(errno.into()))?;
    }
    if !ends(&child, until).map_err(failed)? {
        let _ = child.kill();
        let _ = child.wait();
        return Err(ProgramError::Silent { program: program.to_owned() });
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let command = [program].into_iter().chain(arguments.iter().copied()).collect::<Vec<_>>().join(" ");
    Err(ProgramError::Failed { command, said: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

/// Whether a child ends in time.
fn ends(child: &Child, until: Instant) -> io::Result<bool> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).map_err(io::Error::other)?;
        match poll(&mut [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            ended => return Ok(ended? > 0),
        }
    }
}
