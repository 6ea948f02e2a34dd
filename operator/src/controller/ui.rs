//! Serves the status page to people: read only, without a script, and only if asked for.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, Request, State},
    http::{StatusCode, header, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use azure_vnet_crds::{AzureVnetSubnet, POOL_OVERRIDE, UNMANAGED};
use azure_vnet_operator_core::look::{Cluster, Machine};
use jiff::Timestamp;
use kube::{Api, Client, api::ListParams};
use tokio::{sync::Mutex, time::Instant};
use tracing::debug;

use super::{
    kinds::{Node, taint_key},
    node::Shell,
};
use crate::{
    Shutdown,
    azure::Arm,
    page::{self, HEADERS, Look},
    telemetry,
};

/// A look that is younger is shown again, however many there are to read it.
const FRESH: Duration = Duration::from_secs(3);

struct Ui<A> {
    shell: Arc<Shell<A>>,
    subnets: Api<AzureVnetSubnet>,
    last: Mutex<Option<(Instant, Arc<Look>)>>,
}

/// Serves until the process is asked to end.
pub async fn serve<A: Arm>(shell: Arc<Shell<A>>, client: Client, bind: SocketAddr, shutdown: Shutdown) {
    let ui = Arc::new(Ui { shell, subnets: Api::all(client), last: Mutex::default() });
    let mut router = router(ui);
    if bind.ip().is_loopback() {
        router = router.layer(middleware::from_fn(for_this_machine));
    }
    telemetry::serve_router("the status page (--ui)", router, bind, shutdown).await;
}

fn router<A: Arm>(ui: Arc<Ui<A>>) -> Router {
    Router::new().route("/", get(overview)).route("/nodes/{name}", get(node)).with_state(ui)
}

/// Lets no page of elsewhere read this one by a name of its own that it has point here.
async fn for_this_machine(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if is_this_machine(host) { next.run(request).await } else { (StatusCode::FORBIDDEN, "ask for localhost\n").into_response() }
}

fn is_this_machine(host: &str) -> bool {
    let parsed = host.parse::<Authority>();
    let name = parsed.as_ref().map(Authority::host).unwrap_or_default();
    name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

async fn overview<A: Arm>(State(ui): State<Arc<Ui<A>>>) -> Response {
    let look = ui.look().await;
    (HEADERS, page::overview(&look)).into_response()
}

async fn node<A: Arm>(State(ui): State<Arc<Ui<A>>>, Path(name): Path<String>) -> Response {
    let look = ui.look().await;
    match page::node(&look, &name) {
        Some(page) => (HEADERS, page).into_response(),
        None => (StatusCode::NOT_FOUND, HEADERS, page::no_node(&name)).into_response(),
    }
}

impl<A: Arm> Ui<A> {
    async fn look(&self) -> Arc<Look> {
        let mut last = self.last.lock().await;
        if let Some((at, look)) = last.as_ref()
            && at.elapsed() < FRESH
        {
            return Arc::clone(look);
        }
        let look = Arc::new(self.look_anew().await);
        *last = Some((Instant::now(), Arc::clone(&look)));
        look
    }

    /// Nothing where they cannot be read: the rest of the page is worth showing.
    async fn subnets(&self) -> Vec<AzureVnetSubnet> {
        match self.subnets.list(&ListParams::default()).await {
            Ok(list) => list.items,
            Err(error) => {
                debug!("the subnets are not shown: {error}");
                vec![]
            }
        }
    }

    async fn look_anew(&self) -> Look {
        let caches = &self.shell.caches;
        let now = Timestamp::now();
        let cluster = Cluster {
            at: Timestamp::from_second(now.as_second()).unwrap_or(now),
            configs: caches.configs.state().iter().map(|config| config.as_ref().clone()).collect(),
            pools: caches.pools.state().iter().map(|pool| pool.as_ref().clone()).collect(),
            subnets: self.subnets().await,
            machines: caches.nodes.state().iter().map(|node| machine(node)).collect(),
            events: self.shell.events.recent(),
            ..Cluster::default()
        };
        Look {
            cluster,
            budgets: self.shell.arm.levels(),
            leads: self.shell.leadership.is_leader_now(),
            replica: self.shell.leadership.identity().to_owned(),
        }
    }
}

/// A Node as far as the controller keeps it.
fn machine(node: &Node) -> Machine {
    Machine {
        name: node.name().to_owned(),
        uid: node.uid().to_owned(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        provider_id: node.spec.provider_id.clone(),
        os: node.status.node_info.operating_system.clone(),
        ready: node.condition("Ready").unwrap_or_default().to_owned(),
        cordoned: node.spec.unschedulable,
        taints: node.spec.taints.iter().filter_map(taint_key).map(str::to_owned).collect(),
        pool_override: node.annotation(POOL_OVERRIDE).map(str::to_owned),
        unmanaged: node.annotation(UNMANAGED) == Some("true"),
        ..Machine::default()
    }
}

#[cfg(test)]
mod tests {
    use super::is_this_machine;

    #[test]
    fn only_names_of_this_machine_lead_to_the_page() {
        for host in ["localhost", "localhost:9404", "127.0.0.1:9404", "[::1]:9404", "127.1.2.3"] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in ["", "evil.example:9404", "localhost.evil.example", "10.0.0.4:9404", "127.0.0.1.evil.example"] {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}
