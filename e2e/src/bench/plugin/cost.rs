//! What a command takes: time, processor, page faults, system calls, memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use rustix::time::{ClockId, clock_gettime};

use super::contestant::{Pod, start};

/// How long an ADD may take whose every process is held up at its end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one command took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// Milliseconds from start to end.
    pub wall: f64,
    /// Milliseconds of a processor, of the process and the kernel on its behalf.
    pub cpu: f64,
    /// Page faults.
    pub faults: f64,
}

/// Commands a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Throughput {
    /// ADD.
    pub adds: f64,
    /// DEL.
    pub dels: f64,
}

/// What does not depend on time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Footprint {
    /// System calls of one ADD, of all processes.
    pub calls: f64,
    /// Most memory of any one process, in MiB.
    pub peak: f64,
}

/// Measures work whose children no one else waits for meanwhile; this thread's own time counts too.
pub(super) fn measured(work: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let (children, own, begun) = (getrusage(UsageWho::RUSAGE_CHILDREN)?, own_time(), Instant::now());
    work()?;
    let wall = begun.elapsed();
    let (own, after) = (own_time().saturating_sub(own), getrusage(UsageWho::RUSAGE_CHILDREN)?);
    let children_time = |usage: &nix::sys::resource::Usage| (usage.user_time() + usage.system_time()).num_microseconds();
    let micros = |value: i64| Duration::from_micros(u64::try_from(value).unwrap_or_default());
    let faults = after.minor_page_faults() - children.minor_page_faults();
    Ok(Cost {
        wall: millis(wall),
        cpu: millis(own + micros(children_time(&after) - children_time(&children))),
        faults: f64::from(i32::try_from(faults).unwrap_or(i32::MAX)),
    })
}

/// Counts the system calls of an ADD.
pub(super) fn calls(program: &Path, config: &str, pod: &Pod) -> Result<f64> {
    let trace = Path::new("/run").join(format!("trace-{}", pod.name));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-s0", "-o"]).arg(&trace).arg(program);
    super::contestant::run(&mut strace, config, "ADD", pod)?;
    let text = fs::read_to_string(&trace)?;
    let calls = text.lines().filter(|line| !line.contains(" resumed>") && !line.contains(" --- ") && !line.contains(" +++ ")).count();
    fs::remove_file(&trace)?;
    Ok(f64::from(u32::try_from(calls)?))
}

/// The most memory that any process of an ADD had: each is held up at its end, and looked at.
pub(super) fn peak(program: &Path, config: &str, pod: &Pod) -> Result<f64> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=exit_group", "-e", "inject=exit_group:delay_enter=300000"]).arg(program);
    let mut child = start(&mut strace, config, "ADD", pod)?;
    let (mut peak, begun) = (0, Instant::now());
    while child.try_wait()?.is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("an ADD that is looked at did not end within {} s", PATIENCE.as_secs());
        }
        let below = descendants(child.id());
        peak = below.into_iter().filter_map(high_water).fold(peak, u64::max);
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(f64::from(u32::try_from(peak)?) / 1024.0)
}

/// The sizes of executables together.
pub(super) fn size(executables: &[std::path::PathBuf]) -> Result<f64> {
    let bytes = executables.iter().map(|path| Ok(fs::metadata(path).with_context(|| path.display().to_string())?.len()));
    let bytes: u64 = bytes.collect::<Result<Vec<_>>>()?.into_iter().sum();
    Ok(f64::from(u32::try_from(bytes / 1024)?) / 1024.0)
}

fn descendants(pid: u32) -> BTreeSet<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> =
        lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
    children.into_iter().flat_map(|child| descendants(child).into_iter().chain([child]).collect::<Vec<_>>()).collect()
}

/// The most that a process had resident, in KiB; nothing for a copy of the tracer that has not yet become the program.
fn high_water(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if line("Name:") == Some("strace") {
        return None;
    }
    line("VmHWM:")?.strip_suffix(" kB")?.trim().parse().ok()
}

fn own_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
