//! Component tests: the sidecars against a fake SPIFFE agent and a stand-in for Keycloak.

// `cfg(test)` tells clippy that helpers in these files are test code too.
#[cfg(test)]
mod helper;
#[cfg(test)]
mod register;
