//! The two sidecars of an MCP server's pod: [`helper`] keeps SVIDs in files, [`register`] makes the pod's
//! identity a client of Keycloak. Both do what the published images do, with the same files and environment.

mod files;
pub mod helper;
pub mod register;
