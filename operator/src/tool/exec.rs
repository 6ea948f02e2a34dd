//! Runs a program in a pod's container, through the kubelet.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::AttachParams};
use tokio::{io::AsyncReadExt as _, time::timeout};

/// The operator, in the image that both workloads run.
pub const PROGRAM: &str = "/usr/bin/azure-vnet-operator";

/// Bytes of an answer: a node's store of hundreds of addresses is a hundredth of it. Whoever says more is not waited for.
const MOST: u64 = 16 << 20;

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What it printed to standard output.
    pub printed: String,
    /// That it failed: the runtime's words, and what it printed to standard error.
    pub failed: Option<String>,
}

impl Ended {
    /// What it printed, if it ended well.
    ///
    /// # Errors
    /// It failed.
    pub fn success(self) -> anyhow::Result<String> {
        match self.failed {
            None => Ok(self.printed),
            Some(why) => Err(anyhow::Error::msg(why)),
        }
    }
}

/// Runs it to its end.
///
/// # Errors
/// The pod cannot be entered, or there is no end in time.
pub async fn exec(api: &Api<Pod>, pod: &str, container: &str, command: &[&str], deadline: Duration) -> anyhow::Result<Ended> {
    let parameters =
        AttachParams { container: Some(container.to_owned()), stdin: false, stdout: true, stderr: true, ..AttachParams::default() };
    let work = async {
        let mut process = api.exec(pod, command.iter().copied(), &parameters).await?;
        let status = process.take_status().context("the API server gives no outcome")?;
        let (mut printed, mut said) = (String::new(), String::new());
        let (out, err) = (process.stdout().context("no output")?, process.stderr().context("no output")?);
        let (mut out, mut err) = (out.take(MOST), err.take(MOST));
        tokio::try_join!(out.read_to_string(&mut printed), err.read_to_string(&mut said))?;
        let outcome = status.await.context("the connection broke before the program ended")?;
        let failed = (outcome.status.as_deref() != Some("Success")).then(|| outcome.message.unwrap_or_default());
        Ok(Ended { printed, failed: failed.map(|message| format!("{message} {}", said.trim())) })
    };
    timeout(deadline, work).await.context("the API server did not answer in time")?
}
