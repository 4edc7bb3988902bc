//! The commands, one module each.

pub(crate) mod check;
pub(crate) mod crds;
pub(crate) mod doctor;
pub(crate) mod operator;
pub(crate) mod proxy;
pub(crate) mod render;
pub(crate) mod report;
pub(crate) mod schema;
pub(crate) mod sidecar;
pub(crate) mod token;
pub(crate) mod up;
pub(crate) mod values;
pub(crate) mod webhook;
