//! An emulated Azure: ARM, the authority that issues tokens, IMDS and the wireserver, in one process and with one state. It behaves as documents and
//! recorded conversations say, as far as NICs and their addresses go; machines run nothing, and packets are the fabric's.

mod address;
mod admin;
mod answer;
mod arm;
mod client;
mod cloud;
pub mod command;
mod compute;
mod error;
pub mod fabric;
mod guest;
mod instance;
mod journal;
mod ledger;
mod limits;
pub mod local;
mod network;
mod nic;
mod operation;
mod path;
mod plant;
mod resource;
pub mod rights;
pub mod seed;
mod serve;
pub mod settings;
mod tls;
mod tokens;
mod wanted;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

pub use client::AdminClient;
pub use command::{Class, Command, Condition, Effect, Fault, NicState, Reply, RetryAfter, Tenure, When, Write};
pub use fabric::{Fabric, Mac, NicRef, NoFabric};
pub use guest::Caller;
pub use local::Local;
pub use seed::{MachineKind, MachineSeed, Seed};
pub use settings::Settings;

use answer::{Answer, Request};
use cloud::Cloud;
use command::FabricChange;

/// A running cloud. Dropping it ends all its servers.
pub struct Azure {
    shared: Arc<Shared>,
    authority: tls::Authority,
    tasks: Mutex<JoinSet<()>>,
}

/// The state, its clock, and the alarm for whoever sleeps until the next thing is due.
struct Shared {
    cloud: Mutex<Cloud>,
    start: Instant,
    changed: Notify,
}

impl Azure {
    /// Makes a cloud of a seed and starts its clock; needs a tokio runtime.
    ///
    /// # Errors
    /// The seed contradicts itself, or no certificate authority can be made.
    pub fn new(seed: &Seed, settings: Settings, fabric: Arc<dyn Fabric>) -> anyhow::Result<Self> {
        let (sender, receiver) = unbounded_channel();
        let mut cloud = Cloud::new(&seed.subscriptions, seed.location.clone(), seed.directory.clone(), settings, sender);
        cloud.plant(seed).map_err(anyhow::Error::msg)?;
        let shared = Arc::new(Shared { cloud: Mutex::new(cloud), start: Instant::now(), changed: Notify::new() });
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_time(shared.clone()));
        tasks.spawn(tell_fabric(receiver, fabric));
        Ok(Self { shared, authority: tls::Authority::new()?, tasks: Mutex::new(tasks) })
    }

    /// Serves ARM and the authority with a certificate for `names` (host names and addresses).
    ///
    /// # Errors
    /// A name is no name.
    pub fn serve_arm_tls(&self, listener: TcpListener, names: &[&str]) -> anyhow::Result<()> {
        let tls = TlsAcceptor::from(self.authority.server(names)?);
        self.spawn(serve::tcp(listener, Some(tls), self.handler(Cloud::arm)));
        Ok(())
    }

    /// Serves ARM and the authority without TLS, for tests on loopback.
    pub fn serve_arm(&self, listener: TcpListener) {
        self.spawn(serve::tcp(listener, None, self.handler(Cloud::arm)));
    }

    /// Serves IMDS.
    pub fn serve_imds(&self, listener: TcpListener, caller: Caller) {
        self.spawn(serve::tcp(listener, None, self.handler(move |cloud, request| cloud.imds(request, &caller))));
    }

    /// Serves the wireserver.
    pub fn serve_wireserver(&self, listener: TcpListener, caller: Caller) {
        self.spawn(serve::tcp(listener, None, self.handler(move |cloud, request| cloud.wireserver(request, &caller))));
    }

    /// Serves the admin API on TCP.
    pub fn serve_admin(&self, listener: TcpListener) {
        self.spawn(serve::tcp(listener, None, self.handler(Cloud::admin)));
    }

    /// Serves the admin API on a unix socket.
    pub fn serve_admin_unix(&self, listener: UnixListener) {
        self.spawn(serve::unix(listener, self.handler(Cloud::admin)));
    }

    /// Returns the certificate of the authority behind [`Self::serve_arm_tls`], PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    /// Carries out a command of the admin API.
    ///
    /// # Errors
    /// The command cannot be carried out, in words.
    pub fn command(&self, command: Command) -> Reply {
        self.shared.act(|cloud| cloud.command(command))
    }

    fn handler(&self, serve: impl Fn(&mut Cloud, &Request) -> Answer + Send + Sync + 'static) -> serve::Handler {
        let shared = self.shared.clone();
        Arc::new(move |request| shared.act(|cloud| serve(cloud, request)))
    }

    fn spawn(&self, server: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(server);
    }
}

impl Shared {
    /// Acts on the state as of this moment, and lets happen what is due at once.
    fn act<T>(&self, act: impl FnOnce(&mut Cloud) -> T) -> T {
        let done = self.look(act);
        self.look(|_| ());
        self.changed.notify_one();
        done
    }

    fn look<T>(&self, look: impl FnOnce(&mut Cloud) -> T) -> T {
        let mut cloud = self.cloud.lock().unwrap_or_else(PoisonError::into_inner);
        cloud.advance(self.start.elapsed());
        look(&mut cloud)
    }
}

/// Lets things happen when they are due, also while nobody asks.
async fn keep_time(shared: Arc<Shared>) {
    loop {
        match shared.look(|cloud| cloud.next_due()) {
            Some(due) => {
                tokio::select! {
                    biased;
                    () = shared.changed.notified() => {}
                    () = tokio::time::sleep_until(shared.start + due) => {}
                }
            }
            None => shared.changed.notified().await,
        }
    }
}

async fn tell_fabric(mut changes: UnboundedReceiver<FabricChange>, fabric: Arc<dyn Fabric>) {
    while let Some(change) = changes.recv().await {
        match change {
            FabricChange::Attach(nic, address) => fabric.attach(&nic, address),
            FabricChange::Detach(nic, address) => fabric.detach(&nic, address),
        }
    }
}
