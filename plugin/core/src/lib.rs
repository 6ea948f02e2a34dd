//! What decides in the plugins, as pure values: formats, requests, plans. No I/O, no clock, no randomness, no logging.

pub mod answer;
pub mod attachment;
pub mod boot;
pub mod bridge;
pub mod conf;
pub mod error;
pub mod frames;
pub mod gc;
mod hex;
pub mod ipam;
mod json;
pub mod lease;
pub mod memory;
pub mod network;
pub mod original;
pub mod pool;
pub mod queue;
mod record;
pub mod request;
pub mod resolvers;
pub mod source;
pub mod unbridge;
pub mod version;
pub mod wiring;

pub use record::RecordError;
