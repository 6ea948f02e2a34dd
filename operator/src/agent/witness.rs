//! What is to be believed: who has spoken for which address in this boot, and what of it a restart has to find again.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    net::Ipv4Addr,
    time::{Duration, SystemTime},
};

use azure_vnet_crds::node::{Imds, SlotAddress};
use azure_vnet_operator_core::{
    adoption::{self, Before, Listed, Sightings, Source, ToldRead},
    blocks,
};
use azure_vnet_plugin_core::pool;
use tracing::warn;

use super::{
    basis::Basis,
    keep::{Node, Seen},
    kernel::View,
    memory::Memory,
    problems::{Problems, Topic},
};

impl Node {
    /// After a jump of the clocks what was known counts for nothing before IMDS or the API server speaks again (safety rule ST13).
    pub(super) fn trusted(&mut self, seen: &Seen, basis: Basis, now: Duration) -> Basis {
        if self.clocks.look(now, SystemTime::now()) {
            self.sightings = Sightings::default();
        } else if seen.reread {
            // The API server's own answer of this moment is a witness too (safety rule RE5).
            self.clocks.distrusted = false;
        }
        if self.clocks.distrusted { Basis { listed: Listed::OnDiskOnly, ..basis } } else { basis }
    }

    /// What the node's metadata shows of the listed addresses (safety rules RE5, RE6).
    ///
    /// An answer without the pool's NIC says nothing as long as the machine has that NIC, since metadata lags behind, nor where it is not known which
    /// NIC that is; a machine without it shows none of its addresses.
    pub(super) fn take_sightings(&mut self, seen: &Seen, view: &View, basis: &Basis, now: Duration) {
        let told = (basis.listed == Listed::ByObject).then(|| ToldRead { object: basis.uid.clone(), at: basis.last_read });
        self.sightings.list_blocks(&blocks::of_blocks(&basis.published.addresses), told);
        let listed = adoption::listed(&basis.spec).iter().map(|slot| slot.address).collect();
        self.sightings.list(now, basis.listed, &listed, &self.before(basis));
        if basis.leaving {
            self.sightings.doubt();
        }
        for answer in &seen.answers {
            if self.clocks.parted_after(answer.asked) {
                continue;
            }
            let machine = answer.vm_id.clone().unwrap_or_default();
            let same = machine.is_empty() || self.vm_id.is_empty() || machine == self.vm_id;
            if basis.listed == Listed::OnDiskOnly && !same {
                warn!(remembered = self.vm_id, found = machine, "the disk is another machine's: its pool is not offered");
                continue;
            }
            if !machine.is_empty() {
                self.vm_id = machine;
            }
            let ours = answer.shown.iter().filter(|(mac, _)| mac == "*" || mac.eq_ignore_ascii_case(&basis.spec.node.mac));
            let ours: Vec<_> = ours.collect();
            if ours.is_empty() && (basis.spec.node.mac.is_empty() || view.nic(&basis.spec.node.mac).is_some()) {
                warn!(source = ?answer.source, mac = basis.spec.node.mac, "the metadata service does not know this node's interface: its answer says nothing");
                continue;
            }
            let shown: BTreeSet<Ipv4Addr> = ours.into_iter().flat_map(|(_, addresses)| addresses.iter().copied()).collect();
            let shown = blocks::shown(&basis.published.addresses, shown);
            self.sightings.witness(now, answer.source, &shown);
            if answer.source == Source::Imds {
                self.clocks.distrusted = false;
                self.witness.answered(now, shown);
            }
        }
    }

    /// What IMDS says of the NIC, for the controller: against all that is listed and does not leave.
    pub(super) fn word_of_imds(&mut self, basis: &Basis, now: Duration) -> Option<Imds> {
        let stays = |at: &SlotAddress| !basis.removing.contains(at);
        let listed = blocks::each(&basis.published.addresses).into_iter().filter(stays).map(|at| at.address).collect();
        let hidden = self.sightings.hidden().collect();
        (basis.listed == Listed::ByObject).then(|| self.witness.compare(now, &listed, &hidden)).flatten()
    }

    /// What was known before this look: offered in this boot, adopted in the former one, shown or hidden at any time.
    fn before(&self, basis: &Basis) -> Before<'static> {
        let remembered = |memory: &Memory| Before {
            shown: Cow::Owned(memory.shown.clone()),
            hidden: Cow::Owned(memory.hidden.clone()),
            singles: Cow::Owned(blocks::singles(&memory.spec.addresses)),
            ..Before::default()
        };
        let remembered = self.memory.as_ref().map(remembered).unwrap_or_default();
        if self.clocks.distrusted {
            return remembered;
        }
        let addresses = |pool: pool::Pool| Cow::Owned(pool.addresses().iter().map(|slot| slot.address).collect());
        match (self.keeper.store().pool(), basis.listed) {
            (Ok(pool), _) => Before { offered: addresses(pool), ..remembered },
            (Err(_), Listed::ByObject) => {
                let former = self.keeper.adopted().ok().flatten().filter(|pool| pool.boot != self.boot);
                Before { former: former.map(addresses).unwrap_or_default(), ..remembered }
            }
            (Err(_), Listed::OnDiskOnly) => remembered,
        }
    }

    /// Writes down what IMDS shows and what it shows no more, before the pool that follows from it is in place: neither a restart nor a reboot may
    /// offer again what it took back.
    pub(super) fn remember_sightings(&mut self, problems: &mut Problems) {
        let Some(memory) = &self.memory else { return };
        let (shown, hidden) = self.seen_by_imds();
        self.remember(Memory { shown, hidden, ..memory.clone() }, problems);
    }

    /// Keeps what a reboot without an API server needs.
    pub(super) fn keep_in_mind(&mut self, basis: &Basis, problems: &mut Problems) {
        if basis.listed == Listed::OnDiskOnly {
            return;
        }
        let (shown, hidden) = self.seen_by_imds();
        let memory = Memory { object_uid: basis.uid.clone(), vm_id: self.vm_id.clone(), spec: basis.published.clone(), shown, hidden };
        self.remember(memory, problems);
    }

    fn seen_by_imds(&self) -> (BTreeSet<Ipv4Addr>, BTreeSet<Ipv4Addr>) {
        (self.sightings.shown().collect(), self.sightings.hidden().collect())
    }

    fn remember(&mut self, memory: Memory, problems: &mut Problems) {
        if self.memory.as_ref() == Some(&memory) {
            return;
        }
        if problems.check(Topic::StoreHealthy, "MemoryFailed", memory.save(&self.options.state_dir)).is_some() {
            self.memory = Some(memory);
        }
    }
}
