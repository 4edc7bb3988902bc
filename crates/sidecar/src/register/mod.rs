//! `skep sidecar register-client`: the identity of the JWT-SVID becomes a client of Keycloak, and the client's
//! credentials become files that the MCP server reads.
//!
//! It takes the environment of the published image (kagenti's client-registration) and goes on where that ends:
//! the SVID is verified; Keycloak may be down; a client that was deleted or changed, a secret that was renewed
//! and an identity that is another one by now are put right; readiness says what is missing.

mod error;
mod files;
mod health;
mod identity;
mod idle;
mod service;
mod settings;
mod state;

pub use error::{FileError, IdentityError, SettingsError};
pub use idle::idle;
pub use service::{Parts, run};
pub use settings::{
    Credentials, DEFAULT_DELAY, DEFAULT_HEALTH_ADDRESS, DEFAULT_INTERVAL, IdentitySource, OutputFiles,
    Settings,
};
