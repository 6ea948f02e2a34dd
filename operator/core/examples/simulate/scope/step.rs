//! What can happen in a state, what comes of it, and the rules that it must not break.

use std::net::Ipv4Addr;

use azure_vnet_crds::{
    AzureVnetNode,
    node::{Intent, IntentOp, SlotAddress},
};
use azure_vnet_operator_core::pass::Effect;

use super::{
    Flight, Happens, LEADER, Leads, OTHER, Seat, State, TICK,
    parts::{Azure, OfNode, Parts},
    side::{How, Side, Told, Wait, What},
};
use crate::{cloud::End, controller::time, fault::Mutation};

impl Parts<'_> {
    pub fn possible(&mut self, state: &State) -> Vec<Happens> {
        let newest = self.as_heard(state.object);
        let object = self.objects.get(state.object);
        if ids_of(&object) > self.bounds.ids {
            return vec![];
        }
        let mut all = vec![];
        let lead = &state.seats[LEADER];
        if self.sides.get(lead.side).is_idle() {
            all.push(Happens::Begins { hears: false });
            all.extend((!lead.ground_is_current).then_some(Happens::Begins { hears: true }));
        }
        for (number, seat) in state.seats.iter().enumerate() {
            match &self.sides.get(seat.side).waits {
                Some(Wait::Server(_)) => all.push(Happens::IsServed(number)),
                Some(Wait::Turn(..)) => all.push(Happens::Sends(number)),
                Some(Wait::Answer(_)) => all.push(Happens::TimesOut(number)),
                None => {}
            }
        }
        all.extend((0..state.flights.len()).map(Happens::Lands));
        if state.operation.is_some() {
            all.extend([true, false].map(|well| Happens::Ends { well }));
        }
        let node = self.nodes.get(state.node);
        if node.report.is_some() {
            all.push(Happens::AgentTells);
        } else {
            all.push(Happens::AgentLooks { hears: false });
            all.extend((node.heard != newest).then_some(Happens::AgentLooks { hears: true }));
        }
        if node.pods.len() < 2 {
            all.push(Happens::PodIsBound);
        }
        // The first pod stays.
        for (number, (uid, pod)) in node.pods.iter().enumerate().skip(1) {
            match (node.store.address_of(uid), pod.shown.finished) {
                (Some(_), false) => all.push(Happens::PodFinishes(number)),
                (Some(_), true) => all.push(Happens::PodEnds(number)),
                (None, false) => all.extend(node.store.available().into_iter().map(|address| Happens::PodStarts(number, address))),
                (None, true) => {}
            }
        }
        if state.terms < self.bounds.terms {
            all.extend([Leads::Restarted, Leads::Other].map(Happens::Leads));
        }
        if state.tick < self.bounds.ticks {
            all.push(Happens::TimePasses);
        }
        all
    }

    pub fn go(&mut self, before: &State, happens: Happens, landed: &mut usize) -> Result<State, String> {
        let mut state = before.clone();
        match happens {
            Happens::Begins { hears } => self.begin(&mut state, hears)?,
            Happens::IsServed(number) => self.serve(&mut state, number)?,
            Happens::Sends(number) => self.send(&mut state, number)?,
            Happens::TimesOut(number) => self.tell_seat(&mut state, number, What::Ended(How::TimedOut))?,
            Happens::Lands(flight) => *landed += usize::from(self.land(&mut state, flight)?),
            Happens::Ends { well } => self.end(&mut state, well)?,
            Happens::AgentLooks { hears } => {
                let heard = self.as_heard(state.object);
                let look = OfNode::Look { object: hears.then_some(heard), nic: state.nic, tick: state.tick };
                state.node = self.node_after(state.node, look);
            }
            Happens::AgentTells => {
                let (object, node) = self.tell(state.object, state.node);
                state.node = node;
                state.store(object, None);
            }
            Happens::PodIsBound => state.node = self.node_after(state.node, OfNode::Binds),
            Happens::PodStarts(number, address) => self.start_pod(&mut state, number, address)?,
            Happens::PodFinishes(number) => state.node = self.node_after(state.node, OfNode::Finishes(number)),
            Happens::PodEnds(number) => state.node = self.node_after(state.node, OfNode::Ends(number)),
            Happens::Leads(who) => self.lead(&mut state, who)?,
            Happens::TimePasses => state.tick += 1,
        }
        self.forget(&mut state);
        Ok(state)
    }

    /// What can make no difference any more: a write that is too late to arrive, one that Azure will not take and that nobody waits for, and all that
    /// a deposed controller knows and waits for.
    fn forget(&mut self, state: &mut State) {
        for number in 0..state.seats.len() {
            if self.is_over(state, number) {
                // The other's term is that in which it leads again.
                let term = if number == LEADER { self.sides.get(state.seats[number].side).term } else { 0 };
                self.blank(state, number, term);
            }
        }
        state.flights.retain(|flight| flight.until >= state.tick);
        if self.bounds.mutation != Some(Mutation::EtagIgnored) {
            let awaited: Vec<u64> = state.seats.iter().filter_map(|seat| self.awaits(seat.side)).collect();
            state.flights.retain(|flight| flight.is_current || awaited.contains(&self.writes.get(flight.write).send.intent));
        }
        state.flights.sort_unstable();
    }

    /// Whether a process is of a term that is over, and nothing that it does will ever be seen. Its pass ends before it decides anew; until then it
    /// may write what it decided on, unless somebody was quicker, but not send it.
    fn is_over(&self, state: &State, number: usize) -> bool {
        let (seat, side) = (&state.seats[number], self.sides.get(state.seats[number].side));
        let writes = matches!(&side.waits, Some(Wait::Server(Effect::WriteSpec(_) | Effect::WriteStatus(..))));
        let may_write = writes && (seat.ground_is_current || self.bounds.mutation == Some(Mutation::UnconditionalWrites));
        let may_send = matches!(side.waits, Some(Wait::Turn(..))) && self.bounds.mutation == Some(Mutation::SendsAnyway);
        let deposed = if side.is_idle() { number == OTHER } else { number == OTHER || !side.is_current() };
        deposed && !may_write && !may_send
    }

    fn awaits(&self, side: u32) -> Option<u64> {
        match self.sides.get(side).waits {
            Some(Wait::Answer(intent)) => Some(intent),
            Some(Wait::Server(_) | Wait::Turn(..)) | None => None,
        }
    }

    fn tell_seat(&mut self, state: &mut State, number: usize, what: What) -> Result<(), String> {
        let told = Told { what, tick: state.tick, leads: number == LEADER };
        state.seats[number].side = self.side_after(state.seats[number].side, told)?;
        Ok(())
    }

    fn begin(&mut self, state: &mut State, hears: bool) -> Result<(), String> {
        let seat = &mut state.seats[LEADER];
        if hears {
            seat.ground_is_current = true;
        } else if !self.sides.get(seat.side).knows_an_object() {
            seat.ground_is_current = state.object == self.first;
        }
        self.tell_seat(state, LEADER, What::Begin(hears.then_some(state.object)))
    }

    /// The lease goes to a process: to the other, or to one that was started in place of the one that died.
    fn lead(&mut self, state: &mut State, who: Leads) -> Result<(), String> {
        state.terms += 1;
        match who {
            Leads::Restarted => self.blank(state, LEADER, 0),
            Leads::Other => state.seats.swap(LEADER, OTHER),
        }
        self.tell_seat(state, LEADER, What::Leads(state.terms))
    }

    /// A process of which nothing is left but its term.
    fn blank(&mut self, state: &mut State, number: usize, term: u8) {
        let blank = self.blanks.get(&term).copied();
        let side = blank.unwrap_or_else(|| self.keep_side(Side::new(term)));
        self.blanks.insert(term, side);
        state.seats[number] = Seat { side, ground_is_current: false, nic_is_current: false };
    }

    /// The API server, or Resource Manager where the NIC is read, answers.
    fn serve(&mut self, state: &mut State, number: usize) -> Result<(), String> {
        let side = self.sides.get(state.seats[number].side);
        let Some(Wait::Server(effect)) = &side.waits else { return Ok(()) };
        let lax = self.bounds.mutation == Some(Mutation::UnconditionalWrites);
        let may = state.seats[number].ground_is_current || lax;
        let object = state.object;
        let written = match effect {
            Effect::ReadObject if self.bounds.mutation == Some(Mutation::ReadsItsCache) => {
                return self.tell_seat(state, number, What::ReadOld);
            }
            Effect::ReadObject => {
                state.seats[number].ground_is_current = true;
                return self.tell_seat(state, number, What::Object(object));
            }
            Effect::ReadNic(_) => {
                state.seats[number].nic_is_current = true;
                return self.tell_seat(state, number, What::Nic(state.nic));
            }
            Effect::WriteSpec(_) | Effect::WriteStatus(..) if !may => return self.tell_seat(state, number, What::Written(None)),
            Effect::WriteSpec(_) => self.write(object, state.seats[number].side)?,
            Effect::WriteStatus(..) => {
                let written = self.write(object, state.seats[number].side)?;
                self.check_intent(state, written)?;
                written
            }
            Effect::Delete | Effect::Tell(_) | Effect::Send(_) => return Err("nothing is to be deleted".into()),
        };
        let unstored = self.bounds.mutation == Some(Mutation::IntentNotStored) && self.intent_of(written) != self.intent_of(object);
        if !unstored {
            state.store(written, Some(number));
        }
        self.tell_seat(state, number, What::Written(Some(written)))
    }

    /// A new intent replaces none that is open, and removes only what is set aside on the node.
    fn check_intent(&self, state: &State, written: u32) -> Result<(), String> {
        let (before, after) = (self.intent_of(state.object), self.intent_of(written));
        let Some(after) = after.filter(|after| before.as_ref() != Some(after)) else { return Ok(()) };
        if let Some(before) = before {
            return Err(format!("I4: intent {} replaces the open intent {}", after.id, before.id));
        }
        let aside = self.nodes.get(state.node).store.quarantined();
        match after.remove.iter().find(|at| after.op == IntentOp::Remove && !aside.contains(at)) {
            Some(at) => Err(format!("RE1: intent {} removes {at}, which is not set aside", after.id)),
            None => Ok(()),
        }
    }

    /// Its turn has come: whoever leads and is in time sends.
    fn send(&mut self, state: &mut State, number: usize) -> Result<(), String> {
        let side = self.sides.get(state.seats[number].side);
        let Some(Wait::Turn(write, send)) = &side.waits else { return Ok(()) };
        let now = time((i64::from(state.tick) + 2) * TICK + 1);
        let careless = self.bounds.mutation == Some(Mutation::SendsAnyway);
        let may = number == LEADER && side.is_current() && now < send.not_after;
        if !may && !careless {
            return self.tell_seat(state, number, What::Ended(How::NotSent));
        }
        // It arrives within the grace, or not at all.
        let (until, is_current) = (state.tick + 1, state.seats[number].nic_is_current);
        let flight = Flight { write: self.depart(state.seats[number].side, write, send), until, is_current };
        state.flights.push(flight);
        self.tell_seat(state, number, What::Departed)
    }

    /// The answer to what was sent; the time-out may have come first.
    fn answer(&mut self, state: &mut State, intent: u64, how: How) -> Result<(), String> {
        for number in 0..state.seats.len() {
            if self.awaits(state.seats[number].side) == Some(intent) {
                self.tell_seat(state, number, What::Ended(how))?;
            }
        }
        Ok(())
    }

    /// A write arrives, late or not. Whether it took effect.
    fn land(&mut self, state: &mut State, flight: usize) -> Result<bool, String> {
        let Flight { write, is_current, until: _ } = state.flights.remove(flight);
        let departed = self.writes.get(write);
        let (send, id) = (&departed.send, departed.send.intent);
        let blind = self.bounds.mutation == Some(Mutation::EtagIgnored);
        if !blind && (state.operation.is_some() || !is_current) {
            self.answer(state, id, How::Stale)?;
            return Ok(false);
        }
        let Azure { mut nic, mut subnet } = Azure::clone(&self.nics.get(state.nic));
        if blind && state.operation.is_some() {
            // The newer ends the older.
            nic.finish(&mut subnet, 0);
        }
        let effect = nic.effect(&departed.write)?;
        if self.intent_of(state.object).map(|intent| intent.id) != Some(id) {
            return Err(format!("I11: PUT {id} takes effect, and its intent is not open"));
        }
        let aside = self.nodes.get(state.node).store.quarantined();
        for (slot, address) in &effect.remove {
            let Some(at) = address.map(|address| SlotAddress::single(*slot, address)) else { continue };
            if !send.change.remove.contains(&at) || !aside.contains(&at) {
                return Err(format!("I2: PUT {id} removes {at}, which is not set aside for it"));
            }
        }
        if nic.entries.len() + effect.add.len() > 3 + effect.remove.len() || !effect.add.is_subset(&send.change.add) {
            return Err(format!("I8: PUT {id} adds {:?}", effect.add));
        }
        let gone = nic.accept(&mut subnet, &effect, (id, End::Well), 0);
        state.operation = Some(id);
        self.nic_is(state, Azure { nic, subnet });
        self.lose(state, &gone)?;
        Ok(true)
    }

    fn end(&mut self, state: &mut State, well: bool) -> Result<(), String> {
        let Some(id) = state.operation.take() else { return Ok(()) };
        let Azure { mut nic, mut subnet } = Azure::clone(&self.nics.get(state.nic));
        if let Some(operation) = nic.operation.as_mut().filter(|_| !well) {
            operation.end = End::Fails;
        }
        let gone = nic.finish(&mut subnet, 0);
        self.nic_is(state, Azure { nic, subnet });
        self.lose(state, &gone)?;
        self.answer(state, id, if well { How::Well } else { How::Failed })
    }

    /// The NIC is another one: what was read of it before is old.
    fn nic_is(&mut self, state: &mut State, azure: Azure) {
        state.nic = self.keep_nic(azure);
        state.seats.iter_mut().for_each(|seat| seat.nic_is_current = false);
        state.flights.iter_mut().for_each(|flight| flight.is_current = false);
    }

    fn lose(&self, state: &State, gone: &[Ipv4Addr]) -> Result<(), String> {
        let node = self.nodes.get(state.node);
        match gone.iter().find(|address| node.store.kernel.contains_key(*address)) {
            Some(address) => Err(format!("released in use: {address} goes, which a pod has")),
            None => Ok(()),
        }
    }

    fn start_pod(&mut self, state: &mut State, number: usize, address: Ipv4Addr) -> Result<(), String> {
        let aside = self.nodes.get(state.node).store.disk.markers.contains_key(&address);
        state.node = self.node_after(state.node, OfNode::Starts(number, address));
        let nic = self.nics.get(state.nic);
        // Once Azure takes a removal, the address is another's.
        if !nic.nic.good().any(|(_, good)| good == address) {
            return Err(format!("RE6: {address} is given to a pod, and carries no traffic"));
        }
        if aside { Err(format!("ST6: {address} is given to a pod, and is set aside")) } else { Ok(()) }
    }

    fn intent_of(&self, object: u32) -> Option<Intent> {
        self.objects.get(object).status.as_ref()?.cloud.as_ref()?.intent.clone()
    }
}

/// How many releases and intents were begun.
fn ids_of(object: &AzureVnetNode) -> u64 {
    object.status.as_ref().and_then(|status| status.cloud.as_ref()).map_or(0, |cloud| cloud.last_id)
}

impl State {
    /// The object is another one: all copies but the writer's are old.
    fn store(&mut self, object: u32, by: Option<usize>) {
        if object != self.object {
            self.object = object;
            for (number, seat) in self.seats.iter_mut().enumerate() {
                seat.ground_is_current = by == Some(number);
            }
        }
    }
}
