//! The product on real Kubernetes, real kernels' networking and the emulated Azure, as its users drive it, and on a machine without Kubernetes.
//! One program, so that they run beside one another. Needs root.

mod failover;
mod fleet;
mod lab;
mod lifecycle;
mod main_job;
mod migrate;
mod people;
mod rolling;
mod standalone;

/// A process that ends with its test, whatever comes of that.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
