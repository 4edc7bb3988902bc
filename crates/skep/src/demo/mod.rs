//! What `skep up` brings along when it runs without manifests: an MCP server to protect, users, and the
//! local socket where `skep token` gets their tokens.

pub(crate) mod server;
pub(crate) mod socket;
pub(crate) mod users;
