//! Looks at what Kubernetes uses, now and then: the ranges of Services and of Nodes' pods, and kube-proxy's idea of pods. What follows from it is decided elsewhere.

use std::{sync::Arc, time::Duration};

use azure_vnet_operator_core::network::Cluster;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, Service},
    networking::v1::ServiceCIDR,
};
use kube::{Api, Client, api::ListParams};
use tokio::time::sleep;
use tracing::debug;

use super::node::Shell;
use crate::azure::Arm;

/// How often.
const EVERY: Duration = Duration::from_mins(5);
/// Pause before the first look, and while another leads.
const LOOK: Duration = Duration::from_secs(5);

/// Looks for ever, while this process leads.
pub async fn look<A: Arm>(shell: Arc<Shell<A>>, client: Client) {
    loop {
        if !shell.leadership.is_leader_now() {
            sleep(LOOK).await;
            continue;
        }
        let nodes = shell.caches.nodes.state();
        let pods = nodes.iter().flat_map(|node| &node.spec.pod_cidrs).filter_map(|range| range.parse().ok()).collect();
        shell.note_cluster(Cluster { pods, ..observe(&client).await });
        sleep(EVERY).await;
    }
}

/// What cannot be read is not known: a cluster may do without kube-proxy, or keep it elsewhere.
async fn observe(client: &Client) -> Cluster {
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let daemons: Api<DaemonSet> = Api::namespaced(client.clone(), "kube-system");
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let service = known(services.get_opt("kubernetes").await).and_then(|service| service.spec?.cluster_ip?.parse().ok());
    let daemon = known(daemons.get_opt("kube-proxy").await);
    let config = known(configs.get_opt("kube-proxy").await).and_then(|config| config.data).unwrap_or_default();
    let containers = daemon.and_then(|daemon| daemon.spec.template.spec).map(|pod| pod.containers).unwrap_or_default();
    let arguments: Vec<String> =
        containers.into_iter().flat_map(|container| [container.command, container.args]).flatten().flatten().collect();
    let configuration = config.values().find(|text| text.contains("clusterCIDR:")).map(String::as_str);
    // Clusters before 1.33 have none.
    let ranges: Api<ServiceCIDR> = Api::all(client.clone());
    let ranges = known(ranges.list(&ListParams::default()).await.map(Some)).map(|list| list.items).unwrap_or_default();
    let services = ranges.into_iter().filter_map(|range| range.spec?.cidrs).flatten().filter_map(|range| range.parse().ok()).collect();
    let cluster_cidr = Cluster::cluster_cidr(arguments.iter().map(String::as_str), configuration);
    Cluster { service, services, cluster_cidr, ..Cluster::default() }
}

fn known<K>(answer: kube::Result<Option<K>>) -> Option<K> {
    answer.unwrap_or_else(|error| {
        debug!("what Kubernetes uses cannot be read: {error}");
        None
    })
}
