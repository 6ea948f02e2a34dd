//! What decides in the plugins, as pure values: formats, requests, plans. No I/O, no clock, no randomness, no logging.

pub mod attachment;
pub mod boot;
pub mod gc;
pub mod lease;
pub mod pool;
mod record;

pub use record::RecordError;
