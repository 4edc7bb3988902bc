//! The stages of the pipeline, one file each.

pub mod authenticate;
pub mod authorize;
pub mod doubts;
pub mod entrance;
pub mod forward;
pub mod outgoing;
pub mod parse;
pub mod tool_calls;
