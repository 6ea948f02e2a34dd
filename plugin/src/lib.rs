//! The shell of the CNI plugins: files, kernel, process. It decides nothing.

pub mod store;
