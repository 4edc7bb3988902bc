//! The authorization server: discovery, keys, and a token endpoint for configured clients.
//!
//! Library-shaped: [`AuthServer`] holds the state, [`AuthServer::router`] is a thin HTTP layer over it,
//! and whoever embeds it owns the listener. Only what works is advertised in the metadata.

pub mod clients;
pub mod config;
pub mod error;
pub mod grants;
mod http;
pub mod issuer;
pub mod keys;
pub mod listen;
mod server;
pub mod token;

pub use config::{Config, ConfigError};
pub use issuer::Issuer;
pub use server::AuthServer;
pub use token::{IssuedToken, User, UserGrant};
