//! The product on real Kubernetes, real kernels' networking and the emulated Azure, as its users drive it, and on a machine without Kubernetes.
//! One program, so that they run beside one another. Needs root.

mod connectivity;
mod failover;
mod fleet;
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
