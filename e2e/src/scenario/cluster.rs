//! A running lab as a user sees it: `kubectl`, `helm`, pods, and Azure's own view.

use std::future::Future;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;

use crate::azure::AdminClient;
use crate::lab::Lab;
use crate::lab::api::{self, Api};

/// A running lab and the few ways to talk to it.
pub struct Cluster<'a> {
    /// The lab.
    pub lab: &'a Lab,
    runtime: tokio::runtime::Runtime,
    api: Api,
}

/// A pod as the API server shows it.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// `status.podIP`.
    pub address: Ipv4Addr,
}

/// What a server of the lab's test tool said of itself and of its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The server's node or host.
    pub node: String,
    /// The server's own address.
    pub own: String,
    /// The peer's address as the server saw it.
    pub seen: String,
}

impl<'a> Cluster<'a> {
    /// Talks to `lab`.
    ///
    /// # Errors
    /// If no client can be made.
    pub fn new(lab: &'a Lab) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { lab, runtime, api: Api::at(&lab.api_socket())? })
    }

    /// Runs `kubectl` and returns what it printed.
    ///
    /// # Errors
    /// If it fails; the error holds what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.lab.kubectl(arguments)
    }

    /// Reads an object or a list from the API server: see [`Api::read`].
    ///
    /// # Errors
    /// As [`Api::read`].
    pub fn read(&self, path: &str) -> Result<Value> {
        self.runtime.block_on(self.api.read(path))
    }

    /// Creates an object: see [`Api::create`].
    ///
    /// # Errors
    /// As [`Api::create`].
    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.runtime.block_on(self.api.create(path, object))
    }

    /// Drains a node as `kubectl drain` is used.
    ///
    /// # Errors
    /// If pods do not go.
    pub fn drain(&self, node: &str, further: &[&str]) -> Result<()> {
        let arguments = ["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s"];
        self.kubectl(&[&arguments[..], further].concat()).map(drop)
    }

    /// Waits until the workloads are what the release says.
    ///
    /// # Errors
    /// If that takes longer than two minutes.
    pub fn rolled_out(&self) -> Result<()> {
        for workload in ["daemonset/azure-vnet-agent", "deployment/azure-vnet-controller"] {
            self.kubectl(&["-n", "kube-system", "rollout", "status", workload, "--timeout=120s"])?;
        }
        Ok(())
    }

    /// Applies a manifest, server side.
    ///
    /// # Errors
    /// If the API server refuses it; the error holds its words.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        let file = self.lab.write_file("manifest.yaml", manifest)?;
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file.to_string_lossy()])
    }

    /// The running pods that a label selects, by name.
    ///
    /// # Errors
    /// If `kubectl` fails.
    pub fn pods(&self, selector: &str) -> Result<Vec<Pod>> {
        self.pods_in(api::PODS, selector)
    }

    /// The same of the product's namespace, which is also the cluster's own.
    ///
    /// # Errors
    /// As [`Self::pods`].
    pub fn system_pods(&self, selector: &str) -> Result<Vec<Pod>> {
        self.pods_in(api::SYSTEM_PODS, selector)
    }

    fn pods_in(&self, path: &str, selector: &str) -> Result<Vec<Pod>> {
        let list = self.read(&format!("{path}?labelSelector={selector}"))?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let mut pods: Vec<Pod> = items.iter().filter_map(running).collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pods)
    }

    /// Asks each target (`host:port`) from inside a pod.
    ///
    /// # Errors
    /// If the pod cannot be entered.
    pub fn ask(&self, pod: &str, targets: &[String]) -> Result<Vec<Result<Answer, String>>> {
        let mut arguments = vec!["exec", pod, "--", "/probe", "get"];
        arguments.extend(targets.iter().map(String::as_str));
        let text = self.kubectl(&arguments).or_else(|error| partial_output(&error))?;
        let answers: Vec<_> = text.lines().filter(|line| !line.is_empty()).map(parse_answer).collect();
        if answers.len() != targets.len() {
            return Err(anyhow!("{pod} was asked for {} targets and answered:\n{text}", targets.len()));
        }
        Ok(answers)
    }

    /// Asks a target (`host:port`) from a host outside the virtual network.
    ///
    /// # Errors
    /// If the question cannot be put.
    pub fn ask_from_outside(&self, host: &str, target: &str) -> Result<Result<Answer, String>> {
        let output = self.lab.outside(host).arg(self.lab.folder().join("bin/probe")).args(["get", target]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(parse_answer(text.lines().next().context("the test tool prints a line")?))
    }

    /// Runs a question to the emulated Azure to its end.
    ///
    /// # Errors
    /// As the question.
    pub fn azure<T, F: Future<Output = Result<T>>>(&self, question: impl FnOnce(AdminClient) -> F) -> Result<T> {
        self.runtime.block_on(question(self.lab.azure()))
    }
}

fn running(pod: &Value) -> Option<Pod> {
    let status = &pod["status"];
    let ready = status["conditions"].as_array()?.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let gone = pod["metadata"]["deletionTimestamp"].is_string();
    let address = status["podIP"].as_str()?.parse().ok()?;
    let name = pod["metadata"]["name"].as_str()?.to_owned();
    let node = pod["spec"]["nodeName"].as_str()?.to_owned();
    (ready && !gone).then_some(Pod { name, node, address })
}

/// The tool prints a line for every target and then fails if one did not answer: those lines are the result.
fn partial_output(error: &anyhow::Error) -> Result<String> {
    let text = format!("{error:#}");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("- ") || line.split(' ').count() == 3).collect();
    if lines.is_empty() { Err(anyhow!("{text}")) } else { Ok(lines.join("\n")) }
}

fn parse_answer(line: &str) -> Result<Answer, String> {
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["-", ..] => Err(line.trim_start_matches("- ").to_owned()),
        [node, own, seen] => Ok(Answer { node: node.into(), own: own.into(), seen: seen.into() }),
        _ => Err(line.to_owned()),
    }
}
