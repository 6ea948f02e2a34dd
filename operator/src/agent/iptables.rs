//! Runs the node's iptables: finds out which of the two it uses, reads our own chains, and carries out one restore transaction.
//!
//! Only chains that are ours, and the chains of the kernel that jump to them, are read where the kernel can be asked so: a dump of
//! kube-proxy's tables every few seconds would cost more than all else that the agent does.

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use azure_vnet_crds::config::Backend;
use azure_vnet_operator_core::rules::{self, Chains, Evidence, Plan, Program, Table};

use crate::child::{self, ChildError, Limit};

/// Longest wait for another process that holds the lock of the legacy tables, in seconds.
const LOCK_SECONDS: &str = "2";
/// How long all programs of one look may take together: the node is looked after by one thread, which those that hang would hold for ever.
pub const LIMIT: Duration = Duration::from_secs(10);
/// What the program exits with where there is no such chain.
const NO_CHAIN: i32 = 1;
/// Where the kernel lists the legacy tables that exist.
const LEGACY_TABLES: &str = "/proc/thread-self/net/ip_tables_names";

/// Why the rules could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// The program cannot be started, or does not end.
    #[error("cannot run {program}")]
    Run {
        /// Its name.
        program: String,
        /// Why.
        source: ChildError,
    },
    /// The program failed.
    #[error("{program} failed: {message}")]
    Failed {
        /// Its name.
        program: String,
        /// The first lines of what it said.
        message: String,
    },
    /// What was written is not what is there afterwards.
    #[error("the kernel holds other rules than were written to it, in {}", .0.join(", "))]
    Differs(Vec<String>),
}

/// The programs of one back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iptables {
    program: Program,
}

impl Iptables {
    /// One of the two, found by the search path.
    #[must_use]
    pub fn new(program: Program) -> Self {
        Self { program }
    }

    /// Which it is.
    #[must_use]
    pub fn program(&self) -> Program {
        self.program
    }

    /// Reads our chains and the jumps to them (safety rule SC2): of `nf_tables` the kernel gives one chain, of the legacy tables only a whole one.
    ///
    /// # Errors
    /// When the program fails for another reason than a missing chain.
    pub fn observe(&self, limit: Limit) -> Result<Chains, IptablesError> {
        let mut chains = Chains::default();
        for table in Table::ALL {
            match self.program {
                Program::Nft => self.observe_chains(table, &mut chains, limit)?,
                Program::Legacy => self.observe_table(table, &mut chains, limit)?,
            }
        }
        Ok(chains)
    }

    fn observe_chains(&self, table: Table, chains: &mut Chains, limit: Limit) -> Result<(), IptablesError> {
        for chain in table.read() {
            let output = self.run("", &["-w", LOCK_SECONDS, "-t", table.name(), "-S", chain], ("", limit))?;
            match output.status.code() {
                Some(0) => chains.record(table, chain, &String::from_utf8_lossy(&output.stdout)),
                Some(NO_CHAIN) => {}
                _ => return Err(self.failed("", &output)),
            }
        }
        Ok(())
    }

    fn observe_table(&self, table: Table, chains: &mut Chains, limit: Limit) -> Result<(), IptablesError> {
        let output = self.run("-save", &["-t", table.name()], ("", limit))?;
        if !output.status.success() {
            return Err(self.failed("-save", &output));
        }
        chains.record_table(table, &String::from_utf8_lossy(&output.stdout));
        Ok(())
    }

    /// Carries out a plan: one commit a table, all of it or nothing of that table.
    ///
    /// # Errors
    /// When the program refuses it; that table is as it was.
    pub fn apply(&self, plan: &Plan, limit: Limit) -> Result<(), IptablesError> {
        let output = self.run("-restore", &["-w", LOCK_SECONDS, "--noflush"], (&plan.restore, limit))?;
        if output.status.success() { Ok(()) } else { Err(self.failed("-restore", &output)) }
    }

    /// Whether there can be rules at all. Asking the legacy program would make its tables, so the kernel is asked.
    #[must_use]
    pub fn has_tables(&self) -> bool {
        match self.program {
            Program::Nft => true,
            Program::Legacy => fs::read_to_string(LEGACY_TABLES).is_ok_and(|tables| !tables.is_empty()),
        }
    }

    /// What speaks for this back end.
    fn evidence(&self, limit: Limit) -> Result<Evidence, IptablesError> {
        if !self.has_tables() {
            return Ok(Evidence::default());
        }
        let output = self.run("-save", &[], ("", limit))?;
        if output.status.success() {
            Ok(rules::evidence(&String::from_utf8_lossy(&output.stdout)))
        } else {
            Err(self.failed("-save", &output))
        }
    }

    fn name(&self, suffix: &str) -> String {
        let program = match self.program {
            Program::Nft => "iptables-nft",
            Program::Legacy => "iptables-legacy",
        };
        format!("{program}{suffix}")
    }

    fn run(&self, suffix: &str, arguments: &[&str], (input, limit): (&str, Limit)) -> Result<Output, IptablesError> {
        let program = self.name(suffix);
        let mut command = Command::new(&program);
        child::run(command.args(arguments), input.as_bytes(), limit).map_err(|source| IptablesError::Run { program, source })
    }

    fn failed(&self, suffix: &str, output: &Output) -> IptablesError {
        let said = String::from_utf8_lossy(&output.stderr);
        IptablesError::Failed { program: self.name(suffix), message: said.lines().take(3).collect::<Vec<_>>().join("; ") }
    }
}

/// What a look at the rules found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// What of ours differed.
    pub differed: Vec<String>,
    /// What is there now.
    pub chains: Chains,
}

/// Brings our chains to what is desired, and looks again; all within one limit.
///
/// # Errors
/// When reading or writing fails, or the kernel holds something else afterwards.
pub fn converge(iptables: &Iptables, desired: &Chains, limit: Limit) -> Result<Looked, IptablesError> {
    let chains = iptables.observe(limit)?;
    let plan = rules::plan(&chains, desired);
    if plan.is_empty() {
        return Ok(Looked { differed: vec![], chains });
    }
    iptables.apply(&plan, limit)?;
    let chains = iptables.observe(limit)?;
    let left = rules::plan(&chains, desired);
    if left.is_empty() { Ok(Looked { differed: plan.differs, chains }) } else { Err(IptablesError::Differs(left.differs)) }
}

/// Takes our chains out of a back end. Answers whether there were any.
///
/// # Errors
/// When reading or writing fails.
pub fn withdraw(iptables: &Iptables, limit: Limit) -> Result<bool, IptablesError> {
    let plan = rules::withdraw(&iptables.observe(limit)?);
    if plan.is_empty() {
        return Ok(false);
    }
    iptables.apply(&plan, limit)?;
    let left = rules::withdraw(&iptables.observe(limit)?);
    if left.is_empty() { Ok(true) } else { Err(IptablesError::Differs(left.differs)) }
}

/// The back end to use, and whether that is settled: with nothing to tell by, nft is taken until kubelet or kube-proxy have left their marks.
///
/// # Errors
/// When a save program fails.
pub fn choose(setting: Backend, limit: Limit) -> Result<(Iptables, Settled), IptablesError> {
    let (nft, legacy) = (Iptables::new(Program::Nft), Iptables::new(Program::Legacy));
    match setting {
        Backend::Nft => Ok((nft, Settled::Yes)),
        Backend::Legacy => Ok((legacy, Settled::Yes)),
        Backend::Auto => Ok(match rules::choose(nft.evidence(limit)?, legacy.evidence(limit)?) {
            Some(Program::Nft) => (nft, Settled::Yes),
            Some(Program::Legacy) => (legacy, Settled::Yes),
            None => (nft, Settled::No),
        }),
    }
}

/// Whether the node's back end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// By setting, or by what others use.
    Yes,
    /// Nothing tells yet.
    No,
}
