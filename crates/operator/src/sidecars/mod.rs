//! The two sidecars that give an MCP server an identity: who gets them, what they look like, and how they are
//! put into an MCPServer or a pod and taken out again.
//!
//! Pure, like the planner: no I/O, no clock. The webhook, the operator and the tests all use what this returns.

mod author;
pub mod config;
pub mod decision;
pub mod helper_config;
mod injection;
pub mod names;
mod parts;
mod pod;
mod prerequisites;
mod put;
mod record;
pub mod settings;
mod shape;
mod socket;
mod strip;
mod tree;

pub use self::author::{secrets_reached, written_by_author};
pub use self::config::SidecarConfig;
pub use self::decision::{Decision, Reason, decide};
pub use self::helper_config::{default_helper_audience, default_helper_config};
pub use self::injection::{Mutation, mutate_server, restore_server};
pub use self::pod::{PodOwner, mutate_pod};
pub use self::prerequisites::{Caution, Login, Needs, Prerequisite, cautions, missing};
pub use self::record::Injection;
pub use self::settings::{AdminInPods, Policy, Registration, SidecarMode, Socket, Surroundings};
pub use self::socket::ReadOnlySocket;
