//! Runs a plugin under ptrace, and strikes it at one of its system calls: kills it as the call begins or ends, or makes the call fail.

use std::{
    env, fmt,
    fs::OpenOptions,
    io::{Read, Write as _},
    process::Child,
};

use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::node::{Ended, Node, PLUGIN, Sandbox};

/// System calls of x86-64 that change something outside the process, or that tell what became of a change, by number.
const CHANGING: [u64; 27] = [
    1,   // write
    2,   // open
    18,  // pwrite64
    41,  // socket
    44,  // sendto
    45,  // recvfrom
    46,  // sendmsg
    47,  // recvmsg
    56,  // clone
    57,  // fork
    58,  // vfork
    59,  // execve
    73,  // flock
    77,  // ftruncate
    82,  // rename
    83,  // mkdir
    85,  // creat
    86,  // link
    87,  // unlink
    91,  // fchmod
    257, // openat
    263, // unlinkat
    264, // renameat
    265, // linkat
    308, // setns
    316, // renameat2
    435, // clone3
];
/// What a file system, the kernel's memory, or a signal may answer to any of them.
const ERRORS: [Errno; 7] = [Errno::ENOSPC, Errno::EIO, Errno::EROFS, Errno::EMFILE, Errno::EINTR, Errno::EBUSY, Errno::ENOBUFS];
const READ: u64 = 0;
/// `PTRACE_SYSCALL_INFO_ENTRY`.
const ENTRY: u8 = 1;
/// No system call has this number, so that the kernel does nothing.
const NO_CALL: u64 = u64::MAX;

/// What happens at a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    KillBefore,
    KillAfter,
    Fail(Errno),
    /// Each call of that number from there on.
    FailFrom(Errno),
}

/// A blow at the `at`-th system call after the configuration was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    pub at: usize,
    pub call: u64,
    pub blow: Blow,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, call, blow } = self;
        match blow {
            Blow::KillBefore => write!(f, "a kill before system call {at} (number {call})"),
            Blow::KillAfter => write!(f, "a kill after system call {at} (number {call})"),
            Blow::Fail(errno) => write!(f, "{errno:?} of system call {at} (number {call})"),
            Blow::FailFrom(errno) => write!(f, "{errno:?} of all system calls {call} from {at} on"),
        }
    }
}

/// How a run under ptrace ended.
#[derive(Debug)]
pub struct Run {
    /// The numbers of its system calls.
    pub calls: Vec<u64>,
    /// What it answered, if it was not killed.
    pub ended: Option<Ended>,
}

/// All blows at the calls of a run that change something.
pub fn strikes(calls: &[u64]) -> Vec<Strike> {
    let changing = calls.iter().copied().enumerate().filter(|(_, call)| CHANGING.contains(call));
    let blows = || [Blow::KillBefore, Blow::KillAfter].into_iter().chain(ERRORS.map(Blow::Fail));
    changing.flat_map(|(at, call)| blows().map(move |blow| Strike { at, call, blow })).collect()
}

/// All blows, or a sample of them, half of it kills.
pub fn choose(what: &str, all: &[Strike], sample: usize) -> Vec<Strike> {
    if env::var("AZURE_VNET_SWEEP").is_ok_and(|value| value == "all") {
        return all.to_vec();
    }
    let seed = env::var("AZURE_VNET_SWEEP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    println!("{what}: sample of AZURE_VNET_SWEEP_SEED={seed}");
    report(&format!("{what}: seed"), seed, "");
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = |below: usize| {
        // xorshift64*, George Marsaglia and Sebastiano Vigna.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        usize::try_from((state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % u64::try_from(below).unwrap()).unwrap()
    };
    let (kills, failures): (Vec<_>, Vec<_>) = all.iter().copied().partition(|strike| !matches!(strike.blow, Blow::Fail(_)));
    [kills, failures].iter().flat_map(|kind| (0..sample / 2).map(|_| kind[next(kind.len())]).collect::<Vec<_>>()).collect()
}

/// Tells what a sweep did to who asked for it, one JSON object a line.
pub fn report(name: &str, value: impl Into<Value>, unit: &str) {
    let Ok(path) = env::var("AZURE_VNET_SWEEP_REPORT") else { return };
    let line = json!({ "name": name, "value": value.into(), "unit": unit });
    // One write each: sweeps run beside each other.
    OpenOptions::new().append(true).open(path).unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Runs a command, struck or whole.
pub fn run(node: &Node, pod: &Sandbox, command: &str, conf: &Value, strike: Option<Strike>) -> Run {
    run_of(node, PLUGIN, pod, command, conf, strike)
}

/// As [`run`], of either plugin.
pub fn run_of(node: &Node, plugin: &str, pod: &Sandbox, command: &str, conf: &Value, strike: Option<Strike>) -> Run {
    drive(node.start(plugin, pod, command), conf, strike, &mut |_| {})
}

/// Runs a command whole, and does something as each of its system calls begins, which are counted from 1.
pub fn run_beside(node: &Node, pod: &Sandbox, command: &str, conf: &Value, beside: &mut dyn FnMut(usize)) -> Run {
    drive(node.start(PLUGIN, pod, command), conf, None, beside)
}

/// Runs a command whose answer cannot be written, struck or not.
pub fn run_unheard(node: &Node, pod: &Sandbox, command: &str, conf: &Value, strike: Option<Strike>) -> Run {
    let mut child = node.start(PLUGIN, pod, command);
    drop(child.stdout.take());
    drive(child, conf, strike, &mut |_| {})
}

fn drive(mut child: Child, conf: &Value, strike: Option<Strike>, beside: &mut dyn FnMut(usize)) -> Run {
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    attach(pid);
    child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
    let (calls, status) = follow(pid, strike, beside)
        .unwrap_or_else(|other| panic!("{other:?}, struck by {strike:?}; it said: {}", text(child.stderr.take())));
    // A plugin of others that was run outlives the one that was killed, and has its standard error until it ends.
    let stderr = text(child.stderr.take());
    let ended = status.map(|status| Ended { ok: status == 0, out: text(child.stdout.take()), stderr });
    Run { calls, ended }
}

fn text(stream: Option<impl Read>) -> String {
    let mut text = String::new();
    stream.map(|mut stream| stream.read_to_string(&mut text).unwrap());
    text
}

fn attach(pid: Pid) {
    ptrace::attach(pid).unwrap();
    // The stop of its exec may come first.
    while let WaitStatus::Stopped(_, signal) = waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap() {
        if signal == Signal::SIGSTOP {
            break;
        }
        ptrace::cont(pid, None).unwrap();
    }
    ptrace::setoptions(pid, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL).unwrap();
}

/// Follows a process from call to call, and strikes. The status is of one that ended by itself.
///
/// # Errors
/// Another end.
#[expect(clippy::as_conversions, clippy::wildcard_enum_match_arm, reason = "an errno is its number, and other ends are a surprise")]
fn follow(pid: Pid, strike: Option<Strike>, beside: &mut dyn FnMut(usize)) -> Result<(Vec<u64>, Option<i32>), WaitStatus> {
    let (mut calls, mut configured) = (Vec::new(), false);
    ptrace::syscall(pid, None).unwrap();
    loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::PtraceSyscall(_) => {
                let registers = ptrace::getregs(pid).unwrap();
                let entering = ptrace::syscall_info(pid).unwrap().op == ENTRY;
                if configured && entering {
                    calls.push(registers.orig_rax);
                    beside(calls.len());
                }
                // A run that waits once more than the one before it has other calls there: some, a close say, may not fail at all.
                let is_it = |strike: &Strike| {
                    let is_later = matches!(strike.blow, Blow::FailFrom(_)) && strike.at < calls.len();
                    (is_later || strike.at + 1 == calls.len()) && calls.last() == Some(&strike.call)
                };
                let here = strike.filter(|strike| configured && is_it(strike)).map(|strike| strike.blow);
                match here {
                    Some(Blow::KillBefore) if entering => return Ok((calls, killed(pid))),
                    Some(Blow::KillAfter) if !entering => return Ok((calls, killed(pid))),
                    Some(Blow::Fail(_) | Blow::FailFrom(_)) if entering => set(pid, |registers| registers.orig_rax = NO_CALL),
                    Some(Blow::Fail(errno) | Blow::FailFrom(errno)) => {
                        set(pid, |registers| registers.rax = i64::from(-(errno as i32)).cast_unsigned());
                    }
                    Some(Blow::KillBefore | Blow::KillAfter) | None => {}
                }
                // Nothing is done before the configuration is read to its end: the calls from there on are the command's.
                configured |= !entering && (registers.orig_rax, registers.rdi, registers.rax) == (READ, 0, 0);
                ptrace::syscall(pid, None).unwrap();
            }
            WaitStatus::Stopped(_, signal) => ptrace::syscall(pid, signal).unwrap(),
            WaitStatus::Exited(_, status) => return Ok((calls, Some(status))),
            other => return Err(other),
        }
    }
}

fn set(pid: Pid, change: impl FnOnce(&mut libc::user_regs_struct)) {
    let mut registers = ptrace::getregs(pid).unwrap();
    change(&mut registers);
    ptrace::setregs(pid, registers).unwrap();
}

fn killed(pid: Pid) -> Option<i32> {
    kill(pid, Signal::SIGKILL).unwrap();
    while !matches!(waitpid(pid, Some(WaitPidFlag::__WALL)), Ok(WaitStatus::Signaled(..) | WaitStatus::Exited(..))) {}
    None
}
