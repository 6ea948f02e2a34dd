//! From installation to uninstallation, with helm and with kubectl alone.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what it expected by failing there")]

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use azure_vnet_e2e::build::{Cache, EARLIER_IMAGE, OPERATOR_IMAGE, checkout, earlier};
use azure_vnet_e2e::lab::{Lab, LabOptions};
use azure_vnet_e2e::scenario::{self, Checker, Cluster, rolling, uninstall};

const SOON: Duration = Duration::from_mins(2);

#[test]
fn up4_it_is_uninstalled_only_once_no_pod_has_an_address_and_leaves_nothing() {
    let lab = Lab::up(&LabOptions { earlier: true, ..LabOptions::default() }).unwrap();
    let cluster = Cluster::new(&lab).unwrap();
    let settings = uninstall::settings(&cluster).unwrap();
    with_helm(&cluster);
    assert_eq!(uninstall::settings(&cluster).unwrap(), settings, "the kernel's settings are as they were");
    let rights = scenario::rights(&cluster).unwrap();
    assert_eq!(rights.refused, BTreeSet::new(), "the hook's rights are enough");
    // What is installed again finds a clean cluster.
    with_kubectl(&cluster);
    lab.down().unwrap();
}

fn with_helm(cluster: &Cluster) {
    let lab = cluster.lab;
    let checker = Checker::start(lab);
    scenario::install(cluster, &[]).unwrap();
    scenario::configure(cluster, scenario::CONFIG).unwrap();
    scenario::wait_ready(cluster, SOON).unwrap();
    let pods = scenario::start_pods(cluster, SOON).unwrap();
    let attached = uninstall::attached(cluster).unwrap();

    uninstall::refused(uninstall::helm(cluster, &[]), "pods have addresses of the VNET: default/door on n1, default/web-").unwrap();
    let unharmed = uninstall::attached(cluster).unwrap();
    assert!(unharmed.is_superset(&attached), "a refused attempt gives nothing back");
    // As far as helm is concerned the release is being uninstalled until somebody says otherwise.
    lab.helm(&["rollback", "azure-vnet", "1", "--namespace", "kube-system"]).unwrap();
    cluster.rolled_out().unwrap();
    scenario::wait_ready(cluster, SOON).unwrap();
    cluster.kubectl(&["delete", "pod", &pods[0].name, "--wait=false"]).unwrap();
    assert_eq!(scenario::start_pods(cluster, SOON).unwrap().len(), 12, "pods go on starting and stopping");

    uninstall::drain_all(cluster).unwrap();
    checker.finish().unwrap();
    uninstall::helm(cluster, &["--timeout", "5m"]).unwrap();
    uninstall::nothing_left(cluster, true).unwrap();
    scenario::without_network(cluster, Duration::from_mins(1)).unwrap();
}

/// The rendered manifests: those of the version before, this one's, back and forth again. And this time the addresses are kept.
fn with_kubectl(cluster: &Cluster) {
    let (repository, tag) = OPERATOR_IMAGE.rsplit_once(':').unwrap();
    let crds = checkout().join("manifests/crds.yaml");
    let (former_crds, former) = of_the_version_before(cluster);
    // The lab's Azure is somewhere else, and its identity is the machines' own: what the defaults take for granted.
    let ours = |name: &str| {
        let text = fs::read_to_string(checkout().join("manifests").join(name)).unwrap();
        let text = text.replace("IMAGE_REPOSITORY:0.1.0", &format!("{repository}:{tag}")).replace("=GiveBack", "=Keep");
        let path = cluster.lab.write_file(name, &in_the_lab(&text)).unwrap();
        path.to_string_lossy().into_owned()
    };
    let (product, remover) = (ours("azure-vnet.yaml"), ours("uninstall.yaml"));
    // As docs/install.md and docs/upgrade.md say.
    let apply = |file: &str| cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", file]).unwrap();
    apply(&former_crds);
    apply(&former);
    for node in cluster.lab.nodes() {
        cluster.kubectl(&["uncordon", node.name()]).unwrap();
    }
    scenario::wait_ready(cluster, SOON).unwrap();
    assert_eq!(scenario::start_pods(cluster, SOON).unwrap().len(), 12);
    apply(&crds.to_string_lossy());
    for (file, is_former) in [(&product, false), (&former, true), (&product, false)] {
        apply(file);
        cluster.rolled_out().unwrap();
        rolling::plugins_are(cluster, is_former).unwrap();
        scenario::wait_ready(cluster, SOON).unwrap();
        let before = cluster.pods("app=web").unwrap();
        cluster.kubectl(&["delete", "pod", &before[0].name]).unwrap();
        let after = scenario::start_pods(cluster, SOON).unwrap();
        let kept = after.iter().filter(|pod| before.iter().any(|old| old.name == pod.name && old.address == pod.address)).count();
        assert_eq!((after.len(), kept), (12, 11), "pods keep their addresses, and go on starting and stopping");
    }
    uninstall::drain_all(cluster).unwrap();
    let kept = uninstall::attached(cluster).unwrap();
    cluster.kubectl(&["apply", "--server-side", "-f", &remover]).unwrap();
    let done = ["-n", "kube-system", "wait", "--for=condition=Complete", "--timeout=3m", "job/azure-vnet-uninstall"];
    cluster.kubectl(&done).unwrap();
    cluster.kubectl(&["delete", "--ignore-not-found", "-f", &remover, "-f", &product]).unwrap();
    uninstall::nothing_left(cluster, false).unwrap();
    // Until it ended, the controller may have begun to give back what rested.
    assert!(uninstall::attached(cluster).unwrap().len() * 2 > kept.len(), "they stay on the NICs");
    let kinds = ["azurevnetconfigs.azure-vnet.dev", "azurevnetnodes.azure-vnet.dev", "azurevnetsubnets.azure-vnet.dev"];
    cluster.kubectl(&[&["delete", "crd", "--timeout=30s"], &kinds[..]].concat()).unwrap();
}

/// The definitions and the manifests of the version before this one, as its own `manifests` had them.
fn of_the_version_before(cluster: &Cluster) -> (String, String) {
    let earlier = earlier(&Cache::open().unwrap()).unwrap();
    let (repository, tag) = EARLIER_IMAGE.rsplit_once(':').unwrap();
    let (chart, image) = (earlier.chart.to_string_lossy(), format!("image.repository={repository},image.tag={tag}"));
    let rendered =
        cluster.lab.helm(&["template", "azure-vnet", &chart, "--namespace", "kube-system", "--no-hooks", "--set", &image]).unwrap();
    let path = cluster.lab.write_file("earlier.yaml", &in_the_lab(&rendered)).unwrap();
    (earlier.chart.join("crds").to_string_lossy().into_owned(), path.to_string_lossy().into_owned())
}

/// Adds to both workloads what the lab's values say.
fn in_the_lab(manifests: &str) -> String {
    let environment = [
        ("AZURE_VNET_KUBE_API_HOST", "10.250.0.10"),
        ("AZURE_VNET_KUBE_API_PORT", "6443"),
        ("AZURE_RESOURCE_MANAGER_ENDPOINT", "https://10.250.0.20"),
        ("AZURE_AUTHORITY_HOST", "https://10.250.0.20"),
        ("AZURE_CLIENT_ID", azure_vnet_e2e::azure::seed::NODE_CLIENT_ID),
        ("SSL_CERT_FILE", "/etc/azure-vnet/ca/ca.crt"),
    ];
    let variable = |(name, value): &(&str, &str)| format!("            - name: {name}\n              value: \"{value}\"\n");
    let environment = environment.iter().map(variable).collect::<Vec<_>>().concat();
    let documents = manifests.split("\n---\n").map(|document| {
        let mut document = document.replace("          env:\n", &format!("          env:\n{environment}"));
        let speaks_to_azure = document.contains("kind: Deployment") || document.contains("kind: Job");
        if speaks_to_azure {
            let (mount, volume) =
                ("            - {name: ca, mountPath: /etc/azure-vnet/ca}\n", "        - {name: ca, configMap: {name: azure-ca}}\n");
            if document.contains("          volumeMounts:\n") {
                document = document.replace("          volumeMounts:\n", &format!("          volumeMounts:\n{mount}"));
                document = document.replace("      volumes:\n", &format!("      volumes:\n{volume}"));
            } else {
                document = format!("{}\n          volumeMounts:\n{mount}      volumes:\n{volume}", document.trim_end());
            }
        }
        document
    });
    documents.collect::<Vec<_>>().join("\n---\n")
}
