//! The shell of the CNI plugins: files, kernel, process. It decides nothing.

pub mod bridge;
mod clock;
pub mod command;
pub mod delegate;
pub mod frames;
#[cfg(test)]
mod fuzz;
pub mod kernel_use;
mod lock;
pub mod netlink;
pub mod netns;
mod program;
pub mod resolvers;
mod small;
pub mod source;
pub mod store;
pub mod strays;
pub mod switch;
pub mod unbridge;
pub mod wire;
