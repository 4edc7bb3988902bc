//! What the benchmarks share: a fixed backend, a load generator and a proxy process.

pub mod backend;
pub mod load;
pub mod process;
