//! Runs a plugin under ptrace, and strikes it at one of its system calls: kills it as the call begins or ends, or makes the call fail.

use std::{
    fmt,
    io::{Read, Write as _},
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
use serde_json::Value;

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

/// Runs a command, struck or whole.
#[expect(clippy::zombie_processes, reason = "ptrace waits for it")]
pub fn run(node: &Node, pod: &Sandbox, command: &str, conf: &Value, strike: Option<Strike>) -> Run {
    let mut child = node.start(PLUGIN, pod, command);
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    attach(pid);
    child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
    let (calls, status) = follow(pid, strike);
    let text = |stream: Option<&mut dyn Read>| {
        let mut text = String::new();
        stream.unwrap().read_to_string(&mut text).unwrap();
        text
    };
    let ended = status.map(|status| Ended {
        ok: status == 0,
        out: text(child.stdout.as_mut().map(|out| out as _)),
        stderr: text(child.stderr.as_mut().map(|err| err as _)),
    });
    Run { calls, ended }
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
fn follow(pid: Pid, strike: Option<Strike>) -> (Vec<u64>, Option<i32>) {
    let (mut calls, mut configured) = (Vec::new(), false);
    ptrace::syscall(pid, None).unwrap();
    loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::PtraceSyscall(_) => {
                let registers = ptrace::getregs(pid).unwrap();
                let entering = ptrace::syscall_info(pid).unwrap().op == ENTRY;
                if configured && entering {
                    calls.push(registers.orig_rax);
                }
                let here = strike.filter(|strike| configured && strike.at + 1 == calls.len()).map(|strike| strike.blow);
                match here {
                    Some(Blow::KillBefore) if entering => return (calls, killed(pid)),
                    Some(Blow::KillAfter) if !entering => return (calls, killed(pid)),
                    Some(Blow::Fail(_)) if entering => set(pid, |registers| registers.orig_rax = NO_CALL),
                    Some(Blow::Fail(errno)) => set(pid, |registers| registers.rax = i64::from(-(errno as i32)).cast_unsigned()),
                    Some(Blow::KillBefore | Blow::KillAfter) | None => {}
                }
                // Nothing is done before the configuration is read to its end: the calls from there on are the command's.
                configured |= !entering && (registers.orig_rax, registers.rdi, registers.rax) == (READ, 0, 0);
                ptrace::syscall(pid, None).unwrap();
            }
            WaitStatus::Stopped(_, signal) => ptrace::syscall(pid, signal).unwrap(),
            WaitStatus::Exited(_, status) => return (calls, Some(status)),
            other => panic!("{other:?}"),
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
