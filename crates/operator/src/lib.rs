//! What custom resources mean (`plan`, pure) and, later, the controllers that apply it.

pub mod plan;
