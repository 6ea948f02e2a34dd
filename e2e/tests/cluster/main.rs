//! The product on real Kubernetes, real kernels' networking and the emulated Azure, as its users drive it. Needs root.

mod failover;
mod main_job;
mod people;
