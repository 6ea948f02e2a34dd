//! `cargo xtask conformance`: the sig-network specs of Kubernetes' own test suite, on a lab with the product in it.
//!
//! Which of them run, and why others do not, stands in `e2e/conformance`. What one of them means is its own matter: this starts them and counts.

mod report;
mod specs;

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::build::{Cache, Suite, checkout, progress};
use crate::lab::{KubeProxy, Lab, LabOptions, finish};
use crate::scenario::{self, Cluster};
pub use report::{Report, Spec};
pub use specs::Specs;

/// What is to be run, and how.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only those specs whose names this regular expression finds, also such as are left out otherwise.
    #[arg(long)]
    focus: Option<String>,
    /// How many specs run beside one another.
    #[arg(long, default_value_t = 6)]
    procs: u8,
    /// How kube-proxy programs the kernel: as AKS does, unless told otherwise.
    #[arg(long, value_enum, default_value_t = KubeProxy::Iptables)]
    kube_proxy: KubeProxy,
    /// One JSON object a line: name, value, unit.
    #[arg(long)]
    json: bool,
}

/// Where the outcome is told in full.
fn folder() -> PathBuf {
    checkout().join("target/conformance")
}

/// Builds the suite, brings up a lab with the product and `CoreDNS`, and runs the specs.
///
/// # Errors
/// If a spec fails or does not run, or the lists leave one out of both.
pub fn run(arguments: &Arguments) -> Result<()> {
    let cache = Cache::open()?;
    let suite = Suite::ensure(&cache)?;
    let specs = Specs::read(&checkout().join("e2e/conformance"))?;
    specs.cover(&listed(&suite)?)?;
    let lab = Lab::up(&LabOptions { kube_proxy: arguments.kube_proxy, ..LabOptions::default() })?;
    prepare(&lab, &suite, &cache)?;
    let begun = Instant::now();
    let focus = arguments.focus.clone().unwrap_or_else(|| specs.expression());
    let succeeded = execute(&lab, &suite, &focus, arguments.procs)?;
    let report = Report::read(&folder().join("report.json"))?;
    lab.down()?;
    tell(&report, &specs, arguments, begun.elapsed())?;
    ensure!(report.failed().next().is_none() && succeeded, "the suite failed: see {}", folder().display());
    ensure!(report.passed().next().is_some(), "the expression finds no spec");
    let missing = if arguments.focus.is_some() { vec![] } else { report.missing(specs.run()) };
    ensure!(missing.is_empty(), "these did not run:\n  {}", missing.join("\n  "));
    Ok(())
}

/// All sig-network specs that the suite has.
fn listed(suite: &Suite) -> Result<Vec<String>> {
    let mut list = std::process::Command::new(suite.program("e2e.test"));
    Ok(specs::listed(&finish(list.arg("--list-tests").current_dir("/"))?))
}

fn prepare(lab: &Lab, suite: &Suite, cache: &Cache) -> Result<()> {
    let cluster = Cluster::new(lab)?;
    scenario::install(&cluster, &[])?;
    // Specs start many pods at once, and look at how long that takes.
    scenario::configure(&cluster, &scenario::CONFIG.replace("minFree: 4\n    batch: 4", "minFree: 16\n    batch: 16"))?;
    scenario::wait_ready(&cluster, Duration::from_mins(2))?;
    for (zone, node) in (1..).zip(lab.nodes()) {
        cluster.kubectl(&["label", "node", node.name(), &format!("topology.kubernetes.io/zone={zone}")])?;
    }
    progress("bringing the suite's images to the nodes");
    for image in suite.images(cache)? {
        lab.bring_image(&image)?;
    }
    for name in Suite::OTHER_NAMES {
        lab.name_image(Suite::AGNHOST, name)?;
    }
    scenario::resolver(&cluster).map(drop)
}

/// Runs what the expression finds; whether all went well.
fn execute(lab: &Lab, suite: &Suite, focus: &str, procs: u8) -> Result<bool> {
    let folder = folder();
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let registries = lab.write_file("registries.yaml", &Suite::registries())?;
    // The suite finds no files that are named relative to the one that names them.
    let kubeconfig = lab.write_file("kubeconfig", &lab.kubectl(&["config", "view", "--raw", "--flatten"])?)?;
    let mut ginkgo = lab.client_at(&suite.program("ginkgo"));
    ginkgo.args([
        "run",
        "-v",
        "--silence-skips",
        "--no-color",
        "--timeout=3h",
        "--poll-progress-after=0",
        "--json-report=report.json",
        "--junit-report=junit.xml",
    ]);
    ginkgo.arg(format!("--procs={procs}")).arg(format!("--focus={focus}")).arg("--output-dir").arg(&folder);
    ginkgo.arg(suite.program("e2e.test")).args(["--", "--provider=local", "--num-nodes=3", "--dump-logs-on-failure=false"]);
    ginkgo.args(["--host=https://10.250.0.10:6443", "--system-pods-startup-timeout=1s", "--dns-domain=cluster.local"]);
    ginkgo.arg(format!("--kubectl-path={}", lab.folder().join("bin/kubectl").display()));
    ginkgo.arg(format!("--kubeconfig={}", kubeconfig.display())).arg(format!("--e2e-output-dir={}", folder.display()));
    let log = fs::File::create(folder.join("log"))?;
    progress(&format!("running the specs; their outcome, when all are done, and their log: {}", folder.display()));
    ginkgo.env("KUBE_TEST_REPO_LIST", registries).current_dir(lab.folder().join("home")).process_group(0);
    let status = ginkgo.stdout(log.try_clone()?).stderr(log).status().with_context(|| format!("cannot run {ginkgo:?}"))?;
    if !folder.join("report.json").exists() {
        bail!("the suite did not begin ({status}): see {}", folder.join("log").display());
    }
    Ok(status.success())
}

fn tell(report: &Report, specs: &Specs, arguments: &Arguments, took: Duration) -> Result<()> {
    let mut out = std::io::stdout();
    let (passed, failed) = (report.passed().count(), report.failed().count());
    if arguments.json {
        for (name, value, unit) in
            [("passed", passed, "specs"), ("failed", failed, "specs"), ("left out", specs.left_out().count(), "specs")]
        {
            writeln!(out, "{}", serde_json::json!({"name": name, "value": value, "unit": unit}))?;
        }
        return Ok(writeln!(out, "{}", serde_json::json!({"name": "took", "value": took.as_secs(), "unit": "s"}))?);
    }
    for Spec { name, message, .. } in report.failed() {
        writeln!(out, "FAILED {name}\n       {}", message.lines().next().unwrap_or_default())?;
    }
    writeln!(
        out,
        "{passed} passed, {failed} failed in {:.0} s; {} are left out, for the reasons in e2e/conformance",
        took.as_secs_f64(),
        specs.left_out().count()
    )?;
    writeln!(out, "in full: {}", Path::new(&folder()).display())?;
    Ok(())
}
