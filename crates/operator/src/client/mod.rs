//! The way to the API server: kube's client with the operator's own layer around it.
//!
//! From the outside in: a [`WriteGate`] that lets only the leader write, [`ApiCalls`] that counts, and
//! [`hooks`] for tests. kube's own retries are off: a retry would be inside the gate, and go out after it
//! has closed. Whoever calls tries again when it is time to.

mod call;
mod connect;
mod gate;
pub mod hooks;
mod service;

pub use call::{ApiCalls, Call};
pub use connect::{ConnectError, Target, connect};
pub use gate::{Deadline, GateClosed, WriteGate};
pub use service::{Layered, TimedOut, refused_by_gate};

/// What is put around kube's client. The default is nothing.
#[derive(Clone, Default)]
pub struct Layers {
    /// Lets writes through, or not. Without one every write goes through: for the leader's own Lease and for
    /// tools of humans.
    pub gate: Option<WriteGate>,
    /// Counts calls.
    pub calls: Option<ApiCalls>,
    /// Sees each call, and may make it fail.
    pub hook: Option<hooks::SharedHook>,
}
