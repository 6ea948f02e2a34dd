//! How each fault strikes, and how it ends.

use std::{collections::BTreeSet, rc::Rc, sync::Arc};

use azure_vnet_crds::AzureVnetNode;

use crate::{
    check::Loss,
    controller::time,
    fault::{Fault, Mutation},
    life::CALM,
    plan::{Strike, Undo},
    ruling::Ruling,
    server::NodeObject,
    store::Disk,
    world::{Event, World},
};

impl World<'_> {
    pub fn strike(&mut self, strike: Strike) {
        match strike {
            Strike::End(undo) => self.undo(*undo),
            // What was still to begin does not begin any more.
            Strike::Join { name, foreign } => self.arrive(name, foreign),
            Strike::QuietDrop(name) => self.foreign_drop(name),
            _ if self.calm => {}
            Strike::Weather(weather) => self.weather.push(weather),
            Strike::KillReplica(replica) => self.kill(replica, Fault::O01Killed),
            Strike::KillLeader => self.kill_leader(),
            Strike::KillAll => (0..self.replicas.len()).for_each(|replica| self.kill(replica, Fault::O05AllKilled)),
            Strike::Leave => self.leave(),
            Strike::Arm(armed) => self.armed = Some(armed),
            Strike::Freeze { pause } => {
                if let Some(leader) = self.leader() {
                    self.trace.hit(Fault::O02LeaderFrozen);
                    self.replicas[leader].frozen_until = self.now + pause;
                }
            }
            Strike::CutOff { pause } => {
                if let Some(leader) = self.leader() {
                    self.trace.hit(Fault::O02LeaderCutOff);
                    self.replicas[leader].cut_off = true;
                    self.ends(pause, Undo::CutOff(leader));
                }
            }
            Strike::Jump { by } => self.move_clock(by),
            Strike::Panic => self.panic_one(),
            Strike::ApiDown { pause } => {
                self.trace.hit(Fault::K01ApiServerDown);
                self.server.down = true;
                self.ends(pause, Undo::Api);
            }
            Strike::Stall { pause, anew } => self.stall(pause, anew),
            Strike::Downgrade { pause } => {
                self.replace_all(true);
                self.ends(pause, Undo::Upgrade);
            }
            Strike::Config { name, policy, fault } => {
                self.trace.hit(fault);
                self.configure(name, self.rulings[name].then(policy, fault, self.now));
                let pause = self.dice.time(60_000, 900_000);
                if policy.is_some() || !self.plan.leaves_configs_broken() {
                    self.ends(pause, Undo::Config(name));
                }
            }
            Strike::Burst { name, many } => self.burst(name, many),
            Strike::DeleteObject(name) => {
                let at = time(self.now);
                if !self.server.down && self.server.objects.contains_key(&name) {
                    self.trace.hit(Fault::K10ObjectDeletedByHand);
                    self.server.delete(name, at);
                    self.changed(name);
                }
            }
            Strike::Remake(name) => self.remake(name),
            Strike::DeleteMachine { name, back_after } => {
                self.delete_machine(name);
                if let Some(pause) = back_after {
                    self.ends(pause, Undo::Join(name));
                }
            }
            Strike::Cordon { name, drain, pause } => self.cordon(name, drain, pause),
            Strike::Snapshot => self.snapshot = Some(self.server.clone()),
            Strike::Restore { bump } => self.restore(bump),
            Strike::KillAgent { name, pause } => {
                self.trace.hit(Fault::N02AgentDown);
                self.kill_agent(name, pause);
            }
            Strike::Fuse { name, steps } => self.machines[name].store.fuse = Some(steps),
            Strike::Reboot { name, dark: None } => self.reboot(name, Fault::N03Rebooted, false),
            Strike::Reboot { name, dark: Some(pause) } => {
                if self.machines[name].on {
                    self.reboot(name, Fault::N03RebootedInTheDark, false);
                    (self.machines[name].silent, self.machines[name].mute) = (true, true);
                    self.ends(pause, Undo::Dark(name));
                }
            }
            Strike::Reimage { name } => self.reboot(name, Fault::N04Reimaged, true),
            Strike::Deallocate { name, pause } => self.deallocate(name, pause),
            Strike::Metadata { name, late, mute, pause } => self.darken(name, late, mute, pause),
            Strike::Silent { name, pause } => {
                if self.machines[name].on {
                    self.trace.hit(Fault::N07Silent);
                    self.machines[name].silent = true;
                    self.after(40_000, Event::Kubelet { name });
                    self.ends(pause, Undo::Silent(name));
                }
            }
            Strike::ForeignDrop(name) => self.foreign_drop(name),
            Strike::ForeignSwap(name) => self.foreign_swap(name),
            Strike::ForeignAdd { name, many } => self.foreign_add(name, many),
            Strike::SubnetShrinks { subnet, leave, pause } => {
                let free = &mut self.subnets[subnet].free;
                let rest = free.split_off(free.len().min(leave));
                // The last freed stay on top.
                self.ends(pause, Undo::Subnet(subnet, rest));
            }
        }
    }

    fn ends(&mut self, pause: i64, undo: Undo) {
        self.after(pause, Event::Strike(Strike::End(Box::new(undo))));
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::CutOff(replica) => {
                self.replicas[replica].cut_off = false;
                let life = self.replicas[replica].life;
                self.after(500, Event::Relist { replica, life });
            }
            Undo::Api => {
                self.server.down = false;
                for replica in 0..self.replicas.len() {
                    let (life, pause) = (self.replicas[replica].life, self.latency());
                    self.after(pause, Event::Relist { replica, life });
                }
                self.names().for_each(|name| self.catch_up(name));
            }
            Undo::Upgrade => self.replace_all(false),
            Undo::Clock(replica, by) => self.jump(replica, -by),
            Undo::Dark(name) => {
                self.undo(Undo::Metadata(name));
                self.undo(Undo::Silent(name));
            }
            Undo::Config(name) => self.configure(name, Ruling::Valid(0)),
            Undo::Cordon(name) => self.uncordon(name),
            Undo::Metadata(name) => {
                let late = self.dice.time(500, 4_000);
                let machine = &mut self.machines[name];
                (machine.late, machine.mute, machine.deaf_until) = (late, false, self.now + CALM + late);
            }
            Undo::Silent(name) => {
                self.machines[name].silent = false;
                self.catch_up(name);
            }
            Undo::Boot(name) => {
                let life = self.machines[name].agent.life;
                if !self.machines[name].on {
                    self.boot(name, life);
                }
            }
            Undo::Join(name) => self.arrive(name, 0),
            Undo::Subnet(subnet, mut rest) => {
                self.trace.hit(Fault::A20SubnetGrows);
                let free = &mut self.subnets[subnet].free;
                std::mem::swap(free, &mut rest);
                free.extend(rest);
            }
        }
    }

    /// Storms are over: what still lasts ends, and nothing begins any more.
    pub fn cease(&mut self) {
        self.calm = true;
        self.weather.clear();
        self.armed = None;
        self.trace.note(&[40], || "the storms are over".into());
        for name in self.names() {
            self.machines[name].store.fuse = None;
        }
    }

    fn leader(&self) -> Option<usize> {
        (0..self.replicas.len()).find(|replica| self.replicas[*replica].leads(self.now))
    }

    fn kill_leader(&mut self) {
        if let Some(leader) = self.leader() {
            // Right when a pass waits for something.
            self.kill(leader, Fault::O01Killed);
        }
    }

    pub fn kill(&mut self, replica: usize, fault: Fault) {
        if !self.replicas[replica].alive {
            return;
        }
        self.trace.hit(fault);
        self.replicas[replica].kill();
        let pause = self.dice.time(1_000, 20_000);
        self.after(pause, Event::StartReplica { replica });
    }

    /// Controllers of another version start in place of these.
    fn replace_all(&mut self, are_older: bool) {
        self.are_older = are_older;
        self.trace
            .note(&[46, u64::from(are_older)], || format!("controllers of {} version", if are_older { "an earlier" } else { "this" }));
        for replica in 0..self.replicas.len() {
            self.replicas[replica].kill();
            let pause = self.dice.time(1_000, 20_000);
            self.after(pause, Event::StartReplica { replica });
        }
    }

    fn move_clock(&mut self, by: i64) {
        if by.abs() < 60_000 {
            let replica = self.dice.below(2);
            self.jump(replica, by);
            return self.trace.hit(Fault::A26ClocksDiffer);
        }
        if let Some(leader) = self.leader() {
            self.trace.hit(Fault::O03ClockJumps);
            self.jump(leader, by);
            self.ends(300_000, Undo::Clock(leader, by));
        }
    }

    fn panic_one(&mut self) {
        let Some(leader) = self.leader() else { return };
        let Some(name) = self.replicas[leader].running().next() else { return };
        if self.replicas[leader].drop_pass(name) {
            self.forget_gates(leader, Some(name));
            self.trace.hit(Fault::O07PassPanics);
            self.mark(leader, name, 1_000);
        }
    }

    fn stall(&mut self, pause: i64, anew: bool) {
        let replica = self.leader().unwrap_or_default();
        self.replicas[replica].stalled_until = self.now + pause;
        self.trace.hit(if anew { Fault::K02WatchStartsAnew } else { Fault::K03StaleCache });
        if anew {
            let life = self.replicas[replica].life;
            self.after(pause, Event::Relist { replica, life });
        }
    }

    fn configure(&mut self, name: usize, ruling: Ruling) {
        self.rulings[name] = ruling;
        for replica in 0..self.replicas.len() {
            let (life, pause) = (self.replicas[replica].life, self.latency());
            self.after(pause, Event::Deliver { replica, life, name, cordoned: false });
        }
    }

    fn arrive(&mut self, name: usize, foreign: usize) {
        if self.nics[name].exists {
            return;
        }
        if self.subnets[self.nics[name].subnet].free.len() <= foreign {
            // Azure makes no machine without an address.
            self.trace.note(&[43, name as u64], || format!("n{name}: its subnet is full"));
            let pause = self.dice.time(10_000, 60_000);
            return self.after(pause, Event::Strike(Strike::Join { name, foreign }));
        }
        if self.now < 6_000 {
            self.trace.hit(Fault::K12AllJoin);
        }
        if foreign > 200 {
            self.trace.hit(Fault::A21NicIsFull);
        }
        self.join(name, foreign);
    }

    fn remake(&mut self, name: usize) {
        if !self.nics[name].exists || self.server.down {
            return;
        }
        self.trace.hit(Fault::K11NodeMadeAnew);
        self.delete_machine(name);
        self.ends(1_000, Undo::Join(name));
    }

    /// A machine goes, and soon its Node.
    fn delete_machine(&mut self, name: usize) {
        if !self.nics[name].exists {
            return;
        }
        let subnet = self.nics[name].subnet;
        self.power_off(name);
        self.machines[name].pods.clear();
        self.nics[name].delete(&mut self.subnets[subnet], self.now);
        self.trace.note(&[41, name as u64], || format!("n{name}: its machine is deleted"));
        self.server.nodes.remove(&name);
        self.server.next_version();
        self.changed(name);
        let pause = self.dice.time(3_000, 30_000);
        self.after(pause, Event::Collect { name });
        self.after(pause + 60_000, Event::Collect { name });
    }

    fn cordon(&mut self, name: usize, drain: bool, pause: i64) {
        let Some(node) = self.server.nodes.get(&name).filter(|node| !node.cordoned) else { return };
        self.trace.hit(Fault::K13Cordoned);
        self.server.nodes.insert(name, Rc::new(NodeObject { cordoned: true, ..(**node).clone() }));
        self.server.next_version();
        self.book.cordoned.insert(name, self.now);
        self.changed(name);
        if drain {
            let pods: Vec<String> = self.machines[name].pods.keys().cloned().collect();
            for pod in pods {
                let pause = self.dice.time(100, 20_000);
                self.after(pause, Event::EndPod { name, pod });
            }
        }
        self.ends(pause, Undo::Cordon(name));
    }

    fn uncordon(&mut self, name: usize) {
        let Some(node) = self.server.nodes.get(&name).filter(|node| node.cordoned) else { return };
        self.server.nodes.insert(name, Rc::new(NodeObject { cordoned: false, ..(**node).clone() }));
        self.server.next_version();
        self.book.cordoned.remove(&name);
        // A leader that has not heard of the cordon begins the calm once it does; another leader begins it anew.
        if self.leader().is_some_and(|leader| self.replicas[leader].has_seen_cordon(name)) {
            self.book.restless.insert(name, self.now);
        }
        self.changed(name);
    }

    /// An older state of the API server comes back: objects and lease, not the Nodes, which register anew at once.
    fn restore(&mut self, bump: bool) {
        let Some(snapshot) = self.snapshot.take() else { return };
        self.trace.hit(Fault::K15Restored);
        let newest = self.server.next_version();
        let nodes = self.server.nodes.clone();
        let (intents, down) = (self.server.intents.clone(), self.server.down);
        self.server = snapshot;
        (self.server.nodes, self.server.down) = (nodes, down);
        self.server.intents.extend(intents);
        self.server.resume(if bump { newest + 1_000 } else { 0 });
        self.book.restored = Some(self.now);
        for replica in 0..self.replicas.len() {
            let (life, pause) = (self.replicas[replica].life, self.dice.time(100, 2_000));
            self.after(pause, Event::Relist { replica, life });
        }
        for name in self.names() {
            let (pause, life) = (self.latency(), self.machines[name].agent.life);
            self.after(pause, Event::DeliverToAgent { name, life });
            self.after(10_000, Event::Collect { name });
        }
    }

    fn reboot(&mut self, name: usize, fault: Fault, anew: bool) {
        if !self.machines[name].on {
            return;
        }
        self.trace.hit(fault);
        self.power_off(name);
        if anew {
            let kept = self.plan.mutation == Some(Mutation::StoreIdKept);
            let id = if kept { self.machines[name].store.disk.id.clone() } else { self.dice.token() };
            self.machines[name].store.disk = Disk { id, number: self.next_number(), ..Disk::default() };
        }
        self.book.reset_at.insert(name, self.now);
        let pause = self.dice.time(10_000, 90_000);
        self.ends(pause, Undo::Boot(name));
    }

    fn deallocate(&mut self, name: usize, pause: i64) {
        if self.machines[name].on {
            self.power_off(name);
            self.nics[name].running = false;
            self.trace.hit(Fault::A23Deallocated);
            self.ends(pause + 60_000, Undo::Boot(name));
        }
    }

    /// Its IMDS is late, or says nothing.
    fn darken(&mut self, name: usize, late: i64, mute: bool, pause: i64) {
        self.trace.hit(if mute { Fault::N05MetadataSilent } else { Fault::N06MetadataStale });
        let machine = &mut self.machines[name];
        (machine.late, machine.mute) = (late, mute);
        self.ends(pause, Undo::Metadata(name));
    }

    fn foreign_drop(&mut self, name: usize) {
        let slots: Vec<u8> = self.nics[name].good().map(|(slot, _)| slot).collect();
        let Some(slot) = self.dice.pick(&slots).filter(|_| self.nics[name].operation.is_none()) else { return };
        let subnet = self.nics[name].subnet;
        let gone = self.nics[name].drop_slot(slot, &mut self.subnets[subnet], self.now);
        for address in &gone {
            self.trace.hit(Fault::A16ForeignWriterDrops);
            self.trace.note(&[42, name as u64], || format!("n{name}: somebody takes {slot}/{address} away"));
            self.book.dropped.insert(*address, Loss { name, at: self.now, of_block: gone.len() > 1, read: None });
        }
    }

    /// Somebody makes one of ours anew, rather one that is on its way back.
    fn foreign_swap(&mut self, name: usize) {
        let leaving = |object: &Arc<AzureVnetNode>| {
            let released = object.spec.release.iter().flat_map(|release| &release.addresses);
            released.map(|at| at.slot).collect::<BTreeSet<u8>>()
        };
        let leaving = self.server.objects.get(&name).map(leaving).unwrap_or_default();
        let slots: Vec<u8> = self.nics[name].good().map(|(slot, _)| slot).collect();
        let preferred: Vec<u8> = slots.iter().filter(|slot| leaving.contains(slot)).copied().collect();
        let chosen = self.dice.pick(if preferred.is_empty() { &slots } else { &preferred });
        let Some(slot) = chosen.filter(|_| self.nics[name].operation.is_none()) else { return };
        let subnet = self.nics[name].subnet;
        if let Some(address) = self.nics[name].swap_slot(slot, &mut self.subnets[subnet], self.now) {
            self.trace.hit(Fault::A16ForeignWriterReplaces);
            self.trace.note(&[45, name as u64], || format!("n{name}: somebody gives slot {slot} another address than {address}"));
            self.book.dropped.insert(address, Loss { name, at: self.now, of_block: false, read: None });
        }
    }

    fn foreign_add(&mut self, name: usize, many: usize) {
        if !self.nics[name].exists {
            return;
        }
        self.trace.hit(Fault::A17ForeignWriterAdds);
        let subnet = self.nics[name].subnet;
        for _ in 0..many {
            let other = format!("theirs{}", self.next_number());
            if let Some(address) = self.subnets[subnet].take() {
                self.nics[name].foreign.push((other, address));
            }
        }
        self.nics[name].touch(self.now);
    }
}
