//! Tokens and the calls that are made about them: guarded HTTP client, discovery, keys, JWT validation,
//! challenges. Nothing here knows about MCP.

pub mod authenticator;
pub mod aws;
pub mod bearer;
pub mod challenge;
pub mod client;
pub mod discovery;
pub mod error;
pub mod exchange;
pub mod flight;
pub mod identity;
pub mod introspection;
pub mod jwt;
pub mod keycloak;
pub mod keys;
pub mod limiter;
mod mapping;
pub mod names;
mod parties;
pub mod pins;
pub mod provider;
mod refusals;
pub mod rules;
#[cfg(feature = "spiffe")]
pub mod spiffe;
mod token_cache;
