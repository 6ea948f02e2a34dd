//! Ctrl-C: whoever interrupts a demo or a test is left with nothing of its labs.
//!
//! The interrupted process becomes another program in place: no thread of it goes on to make what is being taken down, or to report the
//! failures that taking it down causes.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, exit};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal as Kill, WaitOptions, getpgid, kill_process, kill_process_group, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::state;
use crate::build::Cache;

/// As shells report a program that was interrupted.
const INTERRUPTED: i32 = 130;
/// How long an interruption may take to be noticed.
const NOTICED: Duration = Duration::from_secs(1);

/// Whether signals are waited for.
static HELD: Once = Once::new();

/// Ends this process's children and labs when it is interrupted or asked to end. Repeating it is harmless.
///
/// # Errors
/// If the signals cannot be waited for.
pub fn take_labs_down_on_signals() -> Result<()> {
    let (runtime, program) = (tokio::runtime::Builder::new_current_thread().enable_all().build()?, state::xtask()?);
    let signals = runtime.block_on(async { Signals::hold() })?;
    HELD.call_once(move || {
        thread::spawn(move || {
            runtime.block_on(signals.next());
            let error = Command::new(&program).arg("lab-interrupted").exec();
            let _ = writeln!(std::io::stderr(), "error: cannot run {}: {error}", program.display());
            exit(INTERRUPTED)
        });
    });
    Ok(())
}

/// Lets an interruption come first that is under way: it strikes children as well, and their failures are not what is to be reported. Where there is one,
/// this process becomes another program meanwhile.
pub fn give_way() {
    if HELD.is_completed() {
        thread::sleep(NOTICED);
    }
}

/// What an interrupted process becomes.
pub fn interrupted() -> ! {
    let mut err = std::io::stderr();
    let _ = writeln!(err, "\ninterrupted: ending what was begun");
    match end() {
        Ok(()) => {
            let _ = writeln!(err, "interrupted; nothing of it is left");
        }
        Err(error) => {
            let _ = writeln!(err, "interrupted; error: {error:#}");
        }
    }
    exit(INTERRUPTED)
}

fn end() -> Result<()> {
    // Impatience must not end this half way.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _signals = runtime.block_on(async { Signals::hold() })?;
    let labs = state::end_own(&Cache::open()?);
    end_children()?;
    labs
}

/// Asks this process's children to end, each with its group where it leads one, and waits; who takes too long is killed.
fn end_children() -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    signal_children(Kill::TERM)?;
    while !children()?.is_empty() {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        if Instant::now() >= deadline {
            signal_children(Kill::KILL)?;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn signal_children(with: Kill) -> Result<()> {
    for child in children()? {
        // One that has gone needs no signal.
        let _ = if getpgid(Some(child)) == Ok(child) { kill_process_group(child, with) } else { kill_process(child, with) };
    }
    Ok(())
}

fn children() -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task").context("cannot read /proc/self/task")?.flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
    }
    Ok(found)
}

/// The two signals that end a program, held back from doing so by themselves.
struct Signals {
    interrupt: Signal,
    term: Signal,
}

impl Signals {
    /// Works inside a runtime only.
    fn hold() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, term: signal(SignalKind::terminate())? })
    }

    async fn next(mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}
