//! The controller: one leader, one pass for a node at a time, every decision made by `azure-vnet-operator-core`.

mod clock;
mod config_status;
mod declared;
mod events;
pub(crate) mod kinds;
pub(crate) mod leader;
pub(crate) mod machine;
pub(crate) mod metrics;
mod node;
pub(crate) mod pools;
mod preflight;
mod queue;
pub(crate) mod random;
mod rights;
mod stored;
mod subnets;
mod taints;
#[cfg(test)]
mod tests;
mod ui;
mod watch;
mod work;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use kube::Api;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, warn};

use self::{
    leader::Leadership,
    metrics::{Metrics, Outcome},
    node::{Broken, Shell},
    queue::Queue,
    watch::Caches,
};
use crate::{Shutdown, World, azure::Arm, telemetry::Beat};

/// Leadership and pace.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Leadership")]
pub struct Options {
    /// Identity among the replicas; default: a random one.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
    /// Namespace of the lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "azure-vnet-system")]
    pub namespace: String,
    /// Name of the lease.
    #[arg(long, default_value = "azure-vnet-controller")]
    pub lease_name: String,
    /// Nodes worked on at once. One is until Azure has done what it was asked for, some seconds: Azure's limits are to slow a large cluster, not this.
    #[arg(long, default_value_t = 256)]
    pub parallel: usize,
    /// Serve a read-only status page, at 127.0.0.1:9404 where no address is given. It shows to whoever reaches it what `kubectl azure-vnet` shows.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true, default_missing_value = "127.0.0.1:9404")]
    pub ui: Option<SocketAddr>,
}

/// Runs until the process is asked to end.
///
/// # Errors
/// What ended it.
pub async fn run<A: Arm>(options: Options, world: World, arm: Arc<A>) -> anyhow::Result<()> {
    let World { kube, endpoints: _, telemetry, shutdown } = world;
    let token = random::token();
    let identity = format!("{}_{token}", options.identity.as_deref().filter(|name| !name.is_empty()).unwrap_or("controller"));
    let leadership = Leadership::new(&identity);
    let metrics = Metrics::default();
    telemetry.register(|registry| metrics.register(registry));

    let mut tasks = JoinSet::new();
    let leases = Api::namespaced(kube.clone(), &options.namespace);
    let (resign, resigned) = Shutdown::manual();
    let election = tokio::spawn(leader::stand(leases, options.lease_name, leadership.clone(), resigned));
    let queue = Arc::new(Queue::default());
    let caches = Caches::follow(&kube, &queue, &mut tasks);
    tokio::select! {
        () = shutdown.wait() => {}
        () = caches.ready() => telemetry.set_ready(true),
    }
    let shell = Arc::new(Shell::new(arm, leadership, caches, &kube, metrics, shutdown.clone()));
    shell.declared.look(&kube).await;
    tasks.spawn(declared::follow(Arc::clone(&shell), kube.clone()));
    tasks.spawn(config_status::report(Arc::clone(&shell), kube.clone()));
    tasks.spawn(subnets::report(Arc::clone(&shell), kube.clone()));
    if let Some(bind) = options.ui {
        tasks.spawn(ui::serve(Arc::clone(&shell), kube.clone(), bind, shutdown.clone()));
    }
    tasks.spawn(preflight::look(Arc::clone(&shell), kube));
    tasks.spawn(rights::look(Arc::clone(&shell)));
    let mut dispatch = Dispatch { shell, queue, passes: JoinSet::new(), parallel: options.parallel.max(1), led: false };
    let beat = telemetry.beat("reconcile", Duration::from_mins(1));
    while !shutdown.is_set() {
        tokio::select! {
            () = shutdown.wait() => {}
            () = dispatch.turn(&beat) => {}
        }
    }
    telemetry.set_ready(false);
    if timeout(FINISH, dispatch.finish()).await.is_err() {
        warn!("passes are broken off: what they have under way is left to the next leader");
    }
    resign.send_replace(true);
    if timeout(LEAVE, election).await.is_err() {
        warn!("the election did not end in time");
    }
    dispatch.passes.shutdown().await;
    tasks.shutdown().await;
    Ok(())
}

/// How long passes may take to come to their end. With `LEAVE` it is less than the 30 s that Kubernetes gives by default.
const FINISH: Duration = Duration::from_secs(20);
/// How long to wait for the lease to be given up.
const LEAVE: Duration = Duration::from_secs(6);
/// How often leadership is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after a pass that broke off.
const AGAIN: Duration = Duration::from_secs(5);

/// Hands nodes that are due to passes.
struct Dispatch<A> {
    shell: Arc<Shell<A>>,
    queue: Arc<Queue>,
    passes: JoinSet<()>,
    parallel: usize,
    led: bool,
}

impl<A: Arm> Dispatch<A> {
    async fn turn(&mut self, beat: &Beat) {
        beat.ok();
        self.shell.keep_time();
        let leads = self.shell.leadership.is_leader_now();
        self.shell.metrics.leader.set(i64::from(leads));
        if leads && !self.led {
            self.shell.caches.mark_all(&self.queue);
        }
        self.led = leads;
        let mut next = Instant::now() + LOOK;
        while leads && self.passes.len() < self.parallel {
            match self.queue.take(Instant::now()) {
                Ok(name) => drop(self.passes.spawn(pass(Arc::clone(&self.shell), Arc::clone(&self.queue), name))),
                Err(at) => {
                    next = at.map_or(next, |at| at.min(next));
                    break;
                }
            }
        }
        tokio::select! {
            () = self.queue.changed(), if leads && self.passes.len() < self.parallel => {}
            Some(_) = self.passes.join_next() => {}
            () = sleep_until(next) => {}
        }
    }

    /// Sees what is under way to its end, as the leader that it still is, and takes back removals that wait to be sent.
    async fn finish(&mut self) {
        for name in self.shell.removing().into_iter().filter(|name| self.queue.claim(name)) {
            self.passes.spawn(pass(Arc::clone(&self.shell), Arc::clone(&self.queue), name));
        }
        while self.passes.join_next().await.is_some() {}
    }
}

async fn pass<A: Arm>(shell: Arc<Shell<A>>, queue: Arc<Queue>, name: String) {
    let result = shell.pass(&name).await;
    let (outcome, again) = match result {
        Ok(wake) => ("ok", wake),
        Err(Broken::Deposed) => {
            debug!(node = name, "the term ended during the pass");
            ("abandoned", Some(AGAIN))
        }
        Err(error @ (Broken::Kube(_) | Broken::Endless)) => {
            if let Broken::Kube(error) = &error {
                shell.declared.note(error);
            }
            warn!(node = name, "the pass broke off and is repeated: {error}");
            ("failed", Some(AGAIN))
        }
    };
    shell.metrics.passes.get_or_create(&Outcome { outcome }).inc();
    if let Some(after) = again {
        queue.mark_at(&name, Instant::now() + after);
    }
    queue.done(&name);
}
