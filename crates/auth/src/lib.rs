//! Tokens and the calls that are made about them: guarded HTTP client, discovery, keys, JWT validation,
//! challenges. Nothing here knows about MCP.

pub mod aws;
pub mod bearer;
pub mod challenge;
pub mod client;
pub mod discovery;
pub mod error;
pub mod exchange;
pub mod flight;
pub mod identity;
pub mod jwt;
pub mod keys;
pub mod names;
pub mod provider;
mod token_cache;
pub mod validator;
