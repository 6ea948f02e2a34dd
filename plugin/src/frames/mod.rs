//! Rules for the frames of bridged pods, in the kernel's tables as `ebtables` (of iptables-nft) reads and writes them. Each carries a comment by
//! which it is known again. All changes of one plan are one transaction. Nothing here decides.

mod encode;
mod socket;

use azure_vnet_plugin_core::frames::{Chain, Comment, ObservedRule, RulePlan};

use self::encode::Chains;
pub use self::socket::Frames;
use crate::netlink::{Errno, NetlinkError};

/// A table of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    /// `nat` of bridges, which others use too.
    Bridge,
    /// Ours, of IPv4.
    Services,
}

impl Table {
    fn of(chain: Chain) -> Self {
        match chain {
            Chain::Arriving | Chain::Leaving | Chain::Network | Chain::Pods | Chain::Out => Self::Bridge,
            Chain::Services | Chain::PodServices => Self::Services,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bridge => "nat",
            Self::Services => "azure-vnet",
        }
    }

    /// The kernel's number of the protocol family.
    fn family(self) -> u8 {
        match self {
            Self::Bridge => 7,
            Self::Services => 2,
        }
    }
}

impl Frames {
    /// The socket to the rules; none where the kernel, without netfilter's, has none.
    ///
    /// # Errors
    /// There is one, and it cannot be opened.
    pub fn open_if_any() -> Result<Option<Self>, NetlinkError> {
        match Self::open() {
            Err(error) if error.errno() == Some(Errno::PROTONOSUPPORT) => Ok(None),
            frames => frames.map(Some),
        }
    }

    /// All rules of ours.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn observe(&mut self) -> Result<Vec<ObservedRule>, NetlinkError> {
        let mut all = self.dump(Table::Bridge, None)?;
        all.extend(self.dump(Table::Services, None)?);
        Ok(all)
    }

    /// Those of networks, which are as few however many pods there are.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn observe_networks(&mut self) -> Result<Vec<ObservedRule>, NetlinkError> {
        let mut all = Vec::new();
        for chain in Chain::ALL.into_iter().filter(|chain| !chain.is_of_pods()) {
            all.extend(self.dump(Table::of(chain), Some(chain))?);
        }
        Ok(all)
    }

    /// Makes the changes, all or none, and what of tables and chains they need.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn apply(&mut self, plan: &RulePlan) -> Result<(), NetlinkError> {
        if plan.is_empty() {
            return Ok(());
        }
        let of_pods = plan.add.iter().all(|new| new.chain.is_of_pods());
        let result = match self.transact(plan, if of_pods { Chains::There } else { Chains::Made }) {
            Err(error) if of_pods && error.errno() == Some(Errno::NOENT) => self.transact(plan, Chains::Made),
            result => result,
        };
        match result {
            Err(error) if error.errno() == Some(Errno::OPNOTSUPP) || error.errno() == Some(Errno::AFNOSUPPORT) => {
                Err(NetlinkError::Refused {
                    what: "make rules for bridges: this kernel lacks nf_tables for them".to_owned(),
                    errno: Errno::OPNOTSUPP,
                })
            }
            result => result,
        }
    }

    /// Observes, plans, applies; again when another process changed the rules in between.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn settle(&mut self, plan: impl Fn(&[ObservedRule]) -> RulePlan) -> Result<(), NetlinkError> {
        const ATTEMPTS: u32 = 5;
        let mut attempt = 1;
        loop {
            match self.observe().and_then(|observed| self.apply(&plan(&observed))) {
                // A rule that was to be deleted is gone already.
                Err(error) if error.errno() == Some(Errno::NOENT) && attempt < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }
}

/// Whether a message tells of a rule of ours.
#[cfg(test)]
pub(crate) fn read(message: &crate::netlink::socket::Message<'_>) -> bool {
    [Table::Bridge, Table::Services].into_iter().any(|table| socket::rule(table, message).is_some())
}

fn chain_of(table: Table, name: &[u8]) -> Option<Chain> {
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    Chain::ALL.into_iter().find(|chain| Table::of(*chain) == table && chain.as_str().as_bytes() == name)
}

/// Reads the comment out of what the kernel keeps with a rule: type 0, length, text with its NUL.
fn comment_of(user_data: &[u8]) -> Option<Comment> {
    let (&[kind, len], text) = user_data.split_first_chunk()?;
    let text = text.get(..usize::from(len)).filter(|_| kind == 0)?;
    Comment::parse(std::str::from_utf8(text.strip_suffix(&[0])?).ok()?)
}
