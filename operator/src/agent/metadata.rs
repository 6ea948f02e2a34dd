//! Asks the node's metadata which addresses its NIC has: rarely, and closely while an answer is waited for.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};

use azure_vnet_operator_core::adoption::Source;
use azure_vnet_plugin_core::source::MacPattern;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tracing::debug;

use super::{clocks::since_boot, keep::Answer};
use crate::azure::{Endpoints, imds::Imds, wireserver::Wireserver};

/// Between two questions while nothing is waited for.
const CALM: Duration = Duration::from_mins(1);
/// Between two questions while an address waits to be shown.
const CLOSE: Duration = Duration::from_secs(2);

/// The answers, as they come.
pub struct Metadata {
    answers: mpsc::Receiver<Answer>,
    kept: Vec<Answer>,
    closely: watch::Sender<bool>,
    news: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl Metadata {
    /// Starts asking.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn start(endpoints: &Endpoints) -> anyhow::Result<Self> {
        let (sender, answers) = mpsc::channel(8);
        let (closely, pace) = watch::channel(true);
        let news = Arc::new(Notify::new());
        let (imds, wireserver) = (Imds::new(endpoints)?, Wireserver::new(endpoints)?);
        let mut tasks = JoinSet::new();
        let told = Arc::clone(&news);
        tasks.spawn(ask(imds, wireserver, sender, pace, told));
        Ok(Self { answers, kept: vec![], closely, news, _tasks: tasks })
    }

    /// Returns when there is an answer to take.
    pub async fn answered(&self) {
        self.news.notified().await;
    }

    /// The answers since the last time.
    pub fn take(&mut self) -> Vec<Answer> {
        while let Ok(answer) = self.answers.try_recv() {
            self.kept.push(answer);
        }
        std::mem::take(&mut self.kept)
    }

    /// Whether to ask closely.
    pub fn pace(&self, closely: bool) {
        self.closely.send_if_modified(|now| std::mem::replace(now, closely) != closely);
    }
}

async fn ask(imds: Imds, wireserver: Wireserver, answers: mpsc::Sender<Answer>, mut closely: watch::Receiver<bool>, news: Arc<Notify>) {
    loop {
        let asked = since_boot();
        match imds.instance().await {
            Ok(instance) => {
                let shown = instance.network.interfaces.iter().map(|nic| (nic.mac.clone(), nic.addresses.clone())).collect();
                let _full = answers.try_send(Answer { source: Source::Imds, asked, vm_id: Some(instance.compute.vm_id), shown });
            }
            Err(error) => debug!(%error, "no answer of the instance metadata service"),
        }
        let asked = since_boot();
        match wireserver.interfaces().await {
            Ok(interfaces) => {
                let mut shown: BTreeMap<String, Vec<Ipv4Addr>> = BTreeMap::new();
                for interface in interfaces {
                    let mac = match interface.mac {
                        MacPattern::Is(mac) => mac.to_string(),
                        MacPattern::Any => "*".to_owned(),
                    };
                    let addresses = interface.subnets.into_iter().flat_map(|subnet| subnet.addresses).map(|address| address.address);
                    shown.entry(mac).or_default().extend(addresses);
                }
                let _full = answers.try_send(Answer { source: Source::Wireserver, asked, vm_id: None, shown: shown.into_iter().collect() });
            }
            Err(error) => debug!(%error, "no answer of the wireserver"),
        }
        news.notify_one();
        let pause = if *closely.borrow_and_update() { CLOSE } else { CALM };
        tokio::select! {
            biased;
            changed = closely.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}
