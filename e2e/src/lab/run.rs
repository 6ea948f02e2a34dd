//! Running programs to their end, with errors that say what was run and what it said.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a program and returns what it printed.
///
/// # Errors
/// If it cannot be started or fails; the error holds what it printed.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    finish(Command::new(program).args(arguments))
}

/// Runs a prepared command and returns what it printed. A terminal's Ctrl-C does not reach it: whoever started it decides what comes of it.
///
/// # Errors
/// If it cannot be started or fails; the error holds what it printed.
pub fn finish(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).process_group(0).output().with_context(|| format!("cannot run {command:?}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{command:?} failed ({}):\n{printed}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(printed)
}

/// Runs `ip` with one line of arguments.
///
/// # Errors
/// As [`run`].
pub fn ip(line: &str) -> Result<()> {
    run("ip", &line.split_whitespace().collect::<Vec<_>>()).map(|_| ())
}

/// Writes a file, naming it in the error.
///
/// # Errors
/// If it cannot be written.
pub fn write(path: impl AsRef<Path>, text: &str) -> Result<()> {
    let path = path.as_ref();
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Starts a program that goes on by itself, its output appended to `log`.
///
/// # Errors
/// If it cannot be started.
pub fn start(command: &mut Command, log: &Path) -> Result<std::process::Child> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(log).with_context(|| format!("cannot open {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    command.spawn().with_context(|| format!("cannot run {command:?}"))
}

/// Reaps what ends, for as long as this process lives: the first process of a namespace inherits its orphans.
pub fn reap_for_ever() -> ! {
    loop {
        if rustix::process::wait(rustix::process::WaitOptions::empty()).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }
}
