//! `kubectl azure-vnet connectivity` on a running cluster: who reaches whom, with a fault that is found, and nothing that stays behind.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Cluster, Pod, wait_for};

/// Says which objects are the command's own.
const OWN: &str = "azure-vnet.dev/connectivity";
const DNS: &str = "\
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: 10.96.0.10, ports: [{name: dns, port: 53, protocol: UDP}]}
";

/// Runs the command; whether all is reached, and what it says.
///
/// # Errors
/// If it prints no JSON.
pub fn connectivity(cluster: &Cluster, arguments: &[&str]) -> Result<(bool, Value)> {
    let output = cluster.lab.client("kubectl").args(["azure-vnet", "connectivity", "--output", "json"]).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let view = serde_json::from_slice(&output.stdout).with_context(|| format!("connectivity printed no JSON, and said: {said}"))?;
    nothing_left(cluster)?;
    Ok((output.status.success(), view))
}

/// Fails if there is a pod or a namespace of the command.
///
/// # Errors
/// Names what is left.
pub fn nothing_left(cluster: &Cluster) -> Result<()> {
    for kind in ["namespaces", "pods", "services"] {
        let left = cluster.kubectl(&["get", kind, "--all-namespaces", "--selector", OWN, "--output", "name"])?;
        ensure!(left.trim().is_empty(), "connectivity left behind: {left}");
    }
    Ok(())
}

/// Every way of the command's own pods on these nodes is open, and every far side saw the pod's own address.
///
/// # Errors
/// Names the way that is not.
pub fn all_reached(cluster: &Cluster, nodes: &[&str], places: &[&str]) -> Result<()> {
    let mut arguments: Vec<&str> = nodes.iter().flat_map(|node| ["--node", node]).collect();
    arguments.extend(places.iter().flat_map(|place| ["--to", place]));
    let (passed, view) = connectivity(cluster, &arguments)?;
    let ways = view["ways"].as_array().context("it has ways")?;
    // Each other pod, the Service, the API server and the places; a cluster without DNS is told of.
    let expected = nodes.len() * (nodes.len() - 1 + 2 + places.len());
    ensure!(passed && ways.len() == expected && ways.iter().all(|way| way["outcome"] == "reached"), "{expected} ways in {view:#}");
    ensure!(view["notes"].to_string().contains("kube-dns"), "{view:#}");
    for way in ways.iter().filter(|way| way["to"]["pod"].is_string()) {
        let from = view["probes"].as_array().into_iter().flatten().find(|probe| probe["pod"] == way["from"]);
        ensure!(from.is_some_and(|from| from["address"] == way["seen"]), "{way} in {view:#}");
    }
    Ok(())
}

/// Takes away the route to a pod and the cluster's DNS, asks from pods that are there, and puts both back.
///
/// # Errors
/// If the command passes, or does not say where to look.
pub fn faults_are_found(cluster: &Cluster, selector: &str, broken: &Pod) -> Result<()> {
    let node = cluster.lab.node(&broken.node).context("the pod's node")?;
    let address = broken.address.to_string();
    let routes = node.exec(&["ip", "route", "show", &address])?;
    let route = routes.lines().find(|route| route.contains(" dev ")).with_context(|| format!("{address} has no route: {routes}"))?;
    let route: Vec<&str> = route.split_whitespace().collect();
    node.exec(&[&["ip", "route", "del"], route.as_slice()].concat())?;
    cluster.apply(DNS)?;
    let found = connectivity(cluster, &["--namespace", "default", "--pods", selector, "--answer-timeout", "1"]);
    cluster.kubectl(&["--namespace", "kube-system", "delete", "service", "kube-dns"])?;
    node.exec(&[&["ip", "route", "add"], route.as_slice()].concat())?;
    let (passed, view) = found?;
    ensure!(!passed, "a pod without a route: {view:#}");
    let failures = view["failures"].as_array().context("failures")?;
    let told = |what: &str, look_at: &str| {
        let text = |failure: &Value, field: &str| failure[field].as_str().unwrap_or_default().to_owned();
        failures.iter().any(|failure| text(failure, "what").contains(what) && text(failure, "lookAt").contains(look_at))
    };
    let cut_off = format!("{} is cut off", broken.name);
    ensure!(told(&cut_off, &format!("node fsck` on {}", broken.node)), "{cut_off} in {view:#}");
    ensure!(told("no answer from DNS", "k8s-app=kube-dns"), "{view:#}");
    Ok(())
}

/// Breaks the command off while its pods are there, then once more while it takes them back.
///
/// # Errors
/// If it passes, or something stays without a word.
pub fn broken_off(cluster: &Cluster, node: &str, deadline: Duration) -> Result<()> {
    let said = interrupted(cluster, node, deadline, Interrupts::One)?;
    ensure!(said.ends_with("broken off\n"), "{said}");
    nothing_left(cluster)?;
    let said = interrupted(cluster, node, deadline, Interrupts::Two)?;
    let remedy = said.split('`').nth(1).and_then(|command| command.strip_prefix("kubectl ")).with_context(|| said.clone())?;
    cluster.kubectl(&remedy.split(' ').collect::<Vec<_>>())?;
    nothing_left(cluster)
}

/// How often a person asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Interrupts {
    One,
    Two,
}

/// What the command said until it failed.
fn interrupted(cluster: &Cluster, node: &str, deadline: Duration, interrupts: Interrupts) -> Result<String> {
    let mut command = cluster.lab.client("kubectl");
    let mut child = command.args(["azure-vnet", "connectivity", "--node", node]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut heard = BufReader::new(child.stderr.take().context("a piped output")?);
    let there = wait_for("pods of the command", deadline, || {
        let pods = cluster.kubectl(&["get", "pods", "--all-namespaces", "--selector", OWN, "--output", "name"])?;
        Ok(if pods.lines().count() == 2 { Ok(()) } else { Err(pods) })
    });
    let interrupt = || Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    interrupt()?;
    let mut said = String::new();
    while interrupts == Interrupts::Two && !said.contains("taking everything back") && heard.read_line(&mut said)? > 0 {}
    if interrupts == Interrupts::Two {
        interrupt()?;
    }
    heard.read_to_string(&mut said)?;
    let status = child.wait()?;
    there?;
    ensure!(!status.success() && said.contains("broken off"), "{said}");
    Ok(said)
}
