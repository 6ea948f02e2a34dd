//! The product on real Kubernetes, real kernels' networking and the emulated Azure, as its users drive it, and on a machine without Kubernetes.
//! One program, so that two labs at a time are as many as there ever are. Needs root.

mod failover;
mod lab;
mod main_job;
mod people;
mod standalone;
