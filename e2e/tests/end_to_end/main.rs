//! The product on real Kubernetes, real kernels' networking and the emulated Azure, as its users drive it, and on a machine without Kubernetes.
//! One program, so that they run beside one another. Needs root.

mod archives;
mod connectivity;
mod failover;
mod fleet;
mod https;
mod lab;
mod lifecycle;
mod main_job;
mod migrate;
mod people;
mod rolling;
mod standalone;

use azure_vnet_e2e::build::PROBE_IMAGE;

/// A deployment of pods that do nothing, on one node without asking the scheduler.
fn pods(name: &str, node: &str, count: usize) -> String {
    format!(
        "\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {count}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      nodeName: {node}
      containers:
      - {{name: probe, image: {PROBE_IMAGE}, command: [/probe, sleep]}}
"
    )
}

/// A process that ends with its test, whatever comes of that.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a program prints that must not fail.
#[expect(clippy::unwrap_used, reason = "a test says what it expected by failing there")]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a folder holds, in order.
#[expect(clippy::unwrap_used, reason = "a test says what it expected by failing there")]
fn names(folder: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
