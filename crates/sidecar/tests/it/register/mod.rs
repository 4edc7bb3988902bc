//! Registration of a pod at a Keycloak.

mod credentials;
mod harness;
mod healing;
mod identity;
