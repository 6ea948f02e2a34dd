//! A node's IMDS as a witness of its NIC: at rest the NIC is seldom read, and what goes behind the controller's back is seen all the same.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use azure_vnet_crds::node::Imds as Word;
use azure_vnet_e2e::azure::{Class, Settings};
use azure_vnet_operator::azure::imds::Imds;
use azure_vnet_operator_core::witness::Witness;

use crate::{controller::Controller, stage::Stage};

/// The agent's part of it.
struct Agent {
    imds: Imds,
    witness: Witness,
    shown: BTreeSet<Ipv4Addr>,
}

impl Agent {
    async fn of(stage: &Stage, node: &str) -> Self {
        let mut endpoints = stage.endpoints(&stage.local.arm);
        endpoints.imds = Some(stage.local.imds(node).await.unwrap());
        let imds = Imds::new(&endpoints.resolve(None).unwrap()).unwrap();
        Self { imds, witness: Witness::default(), shown: BTreeSet::new() }
    }

    /// Asks, and reports what it found.
    async fn look(&mut self, controller: &mut Controller) -> Word {
        let answer = self.imds.instance().await.unwrap();
        let shown: BTreeSet<Ipv4Addr> = answer.network.interfaces.iter().flat_map(|nic| nic.addresses.iter().copied()).collect();
        let listed: BTreeSet<Ipv4Addr> = controller.addresses().iter().map(|address| address.parse().unwrap()).collect();
        let hidden = listed.intersection(&self.shown).filter(|address| !shown.contains(*address)).copied().collect();
        self.shown.extend(&shown);
        let now = Duration::from_secs(u64::try_from(controller.now.as_second()).unwrap());
        self.witness.answered(now, shown);
        let word = self.witness.compare(now, &listed, &hidden).unwrap();
        controller.report(0);
        let agent = controller.object.as_mut().unwrap().status.as_mut().unwrap().agent.as_mut().unwrap();
        (agent.imds, agent.counts.free) = (Some(word), u16::try_from(listed.len()).unwrap());
        word
    }

    /// Asks until it says that; the emulated IMDS is behind Azure by real time.
    async fn until(&mut self, controller: &mut Controller, word: Word) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while self.look(controller).await != word {
            assert!(tokio::time::Instant::now() < deadline, "never {word:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Reads of the machine and its NIC.
async fn reads(stage: &Stage) -> usize {
    stage.calls(Class::NetworkRead, "GET").await.len() + stage.calls(Class::ComputeRead, "GET").await.len()
}

#[tokio::test]
async fn a16_with_imds_as_a_witness_a_nic_is_read_once_an_hour_and_a_foreign_removal_is_lost_in_three_minutes() {
    // An instance is read in two parts.
    for (node, one_look) in [("n1", 2), ("n2", 1)] {
        let stage = Stage::start(Settings::instant()).await;
        let mut controller = stage.controller(node, &stage.client()).await;
        controller.fill(4).await;
        let mut agent = Agent::of(&stage, node).await;
        let agreed = Word { missing: 0, others: 1 };
        agent.until(&mut controller, agreed).await;
        controller.pass().await;
        let before = reads(&stage).await;
        for _ in 0..60 {
            controller.sleep(60);
            assert_eq!(agent.look(&mut controller).await, agreed);
            controller.pass().await;
        }
        assert_eq!(reads(&stage).await, before + one_look, "{node}: an hour at rest");

        stage.local.admin.foreign_drop(node, "avn-2").await.unwrap();
        agent.until(&mut controller, Word { missing: 1, others: 1 }).await;
        let (told, before) = (controller.now, reads(&stage).await);
        controller.until("told", |controller| controller.told("AddressLost").is_some()).await;
        let (took, reads) = (controller.now.duration_since(told).as_secs(), reads(&stage).await - before);
        assert!(took <= 180 && controller.told("AddressLost").unwrap().contains("slot 2"), "{node}: {took} s, {:?}", controller.events);
        assert_eq!(reads, 2 * one_look, "{node}: one to find out, one a minute later to be sure");
        controller.report(0);
        controller.fill(4).await;
        agent.until(&mut controller, agreed).await;
        stage.is_sound(&controller).await;
    }
}
