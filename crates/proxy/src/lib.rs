//! The data plane: one guarded entrance in front of one MCP server.
//!
//! [`pipeline`] is the order of the stages, readable as a list. A request becomes
//! [`request::Authenticated`], then [`request::Parsed`], then [`request::Authorized`]; each can only be
//! made by its stage, and only the last can be forwarded.

pub mod annotations;
pub mod audit;
pub mod cedar;
pub mod config;
pub mod error;
pub mod lists;
pub mod message;
pub mod metrics;
pub mod pipeline;
pub mod probe;
pub mod request;
pub mod routes;
pub mod service;
pub mod stages;
pub mod tools;
pub mod transport;
pub mod upstream;
