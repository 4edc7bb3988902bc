//! The commands, one module each.

pub(crate) mod check;
pub(crate) mod crds;
pub(crate) mod render;
pub(crate) mod report;
pub(crate) mod schema;
