//! Fakes and builders for tests: time, randomness, an identity provider, Keycloak, a SPIFFE agent, an MCP
//! backend, raw HTTP, TLS, a Kubernetes API server.
//!
//! Only ever a dev-dependency. Everything listens on 127.0.0.1 and a port the system picks, and stops
//! when its handle is dropped. A fake that can't do what a test asked of it panics: the test is over.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a fake that breaks must end the test at once"
)]

pub mod backend;
pub mod clock;
pub mod control_plane;
pub mod idp;
mod jose;
pub mod keycloak;
pub mod raw;
pub mod rng;
pub mod server;
pub mod spire;
pub mod tls;
pub mod token_endpoint;

pub use backend::McpBackend;
pub use clock::ManualClock;
pub use control_plane::ControlPlane;
pub use idp::{FakeIdp, Outage, TokenSpec};
pub use keycloak::FakeKeycloak;
pub use raw::{Answer, RawConnection, free_port};
pub use rng::SeededRng;
pub use server::{Gate, Recorded, Reply, ScriptedServer, Step};
pub use spire::FakeAgent;
pub use tls::{TestCa, TestCertificate, Tls};
