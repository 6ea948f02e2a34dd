//! Runs a program of the node's to its end, within a limit. One that hangs is ended together with what it started; nothing else ever is.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};

/// More than any of them has to say; one that says more gets a broken pipe.
const MOST_BYTES: usize = 16 << 20;

/// Why a program did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started, or not be listened to.
    #[error("it cannot be run")]
    Run(#[source] io::Error),
    /// It was ended, or not even started.
    #[error("its time of {} s was over before it ended, and it was killed", .0.as_secs())]
    Deadline(Duration),
}

/// How long a step may take, however many programs it runs one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    of: Duration,
    until: Instant,
}

impl Limit {
    /// One that begins now.
    #[must_use]
    pub fn of(time: Duration) -> Self {
        Self { of: time, until: Instant::now() + time }
    }
}

/// Runs it with this input, and waits for its end.
///
/// # Errors
/// When it does not start, or is still running when the limit is over.
pub fn run(command: &mut Command, input: &[u8], limit: Limit) -> Result<Output, ChildError> {
    if limit.until <= Instant::now() {
        return Err(ChildError::Deadline(limit.of));
    }
    let stdin = as_file(input).map_err(ChildError::Run)?;
    // A group of its own, so that a script's hanging child ends with it.
    let spawned = command.process_group(0).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(ChildError::Run)?;
    let heard = listen(&mut child, limit.until);
    if !matches!(heard, Ok(Some(_))) {
        end(&mut child);
    }
    let status = child.wait().map_err(ChildError::Run)?;
    let [stdout, stderr] = heard.map_err(ChildError::Run)?.ok_or(ChildError::Deadline(limit.of))?;
    Ok(Output { status, stdout, stderr })
}

/// A file needs no one who feeds it while the program does not read.
fn as_file(input: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("input", MemfdFlags::CLOEXEC)?);
    file.write_all(input)?;
    file.rewind()?;
    Ok(file)
}

/// One of the two streams, and what came of it.
struct Stream {
    from: Option<File>,
    heard: Vec<u8>,
}

impl Stream {
    fn of(fd: Option<impl Into<OwnedFd>>) -> Self {
        Self { from: fd.map(|fd| File::from(fd.into())), heard: vec![] }
    }

    /// Takes what is there; the end of the stream closes it.
    fn take(&mut self) -> io::Result<()> {
        let mut buffer = [0; 8192];
        let Some(from) = &mut self.from else { return Ok(()) };
        let count = from.read(&mut buffer)?;
        self.heard.extend(buffer.iter().take(count));
        if count == 0 || self.heard.len() > MOST_BYTES {
            self.from = None;
        }
        Ok(())
    }
}

/// What the program says until it ends; `None` where it does not in time. What it started may keep the streams open: its own end counts.
fn listen(child: &mut Child, deadline: Instant) -> io::Result<Option<[Vec<u8>; 2]>> {
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let (mut out, mut err) = (Stream::of(child.stdout.take()), Stream::of(child.stderr.take()));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let [from_out, from_err, has_ended] = readable([out.from.as_ref(), err.from.as_ref()], &ended, left)?;
        if from_out {
            out.take()?;
        }
        if from_err {
            err.take()?;
        }
        // What it wrote before its end is readable at its end.
        if has_ended && !from_out && !from_err {
            return Ok(Some([out.heard, err.heard]));
        }
    }
}

fn readable(streams: [Option<&File>; 2], ended: &OwnedFd, left: Duration) -> io::Result<[bool; 3]> {
    // A closed stream stands as the third: asked for nothing, it answers nothing of its own.
    let [out, err] = streams.map(|stream| stream.map(AsFd::as_fd));
    let entry = |fd: Option<_>| PollFd::from_borrowed_fd(fd.unwrap_or(ended.as_fd()), PollFlags::IN);
    let mut fds = [entry(out), entry(err), entry(None)];
    let left = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
    match poll(&mut fds, Some(&left)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let [is_out, is_err, is_end] = fds.map(|fd| !fd.revents().is_empty());
    Ok([is_out && out.is_some(), is_err && err.is_some(), is_end])
}

fn end(child: &mut Child) {
    // It is not waited for yet, so its number is still its own.
    let _gone = kill_process_group(Pid::from_child(child), Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn long() -> Limit {
        Limit::of(Duration::from_mins(1))
    }

    #[test]
    fn what_goes_in_and_comes_out_is_whole() {
        let input = vec![b'x'; 300_000];
        let output = run(&mut shell("cat; echo said >&2; exit 3"), &input, long()).unwrap();
        assert_eq!((output.status.code(), output.stdout, output.stderr), (Some(3), input, b"said\n".to_vec()));
    }

    #[test]
    fn one_that_hangs_is_killed_with_what_it_started_and_the_error_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        let error = run(&mut shell(&script), b"", Limit::of(Duration::from_secs(1))).unwrap_err();
        assert_eq!(error.to_string(), "its time of 1 s was over before it ended, and it was killed");
        let child: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        while !state().is_empty() && !state().contains(") Z ") {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_daemon_that_it_leaves_behind_is_not_waited_for() {
        let output = run(&mut shell("sleep 5 & echo done"), b"", long()).unwrap();
        assert_eq!(output.stdout, b"done\n");
    }

    #[test]
    fn endless_talk_ends_in_a_broken_pipe() {
        let output = run(&mut shell("yes"), b"", long()).unwrap();
        assert!(output.stdout.len() <= MOST_BYTES + 8192 && !output.status.success());
    }
}
