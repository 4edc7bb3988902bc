//! Types that every part of skep shares: the custom resources, the proxy's RunConfig, names, labels
//! and problems. Nothing in this crate does I/O, reads a clock or draws a random number.

pub mod address;
pub mod condition;
pub mod crd;
pub mod headers;
pub mod json;
pub mod names;
pub mod problem;
pub mod report;
pub mod runconfig;
pub mod secret;
pub mod yaml;
