//! The fakes do what they say.

// `cfg(test)` tells clippy that helpers in these files are test code too.
#[cfg(test)]
mod control_plane;
#[cfg(test)]
mod idp;
#[cfg(test)]
mod keycloak;
#[cfg(test)]
mod server;
#[cfg(test)]
mod spire;
#[cfg(test)]
mod tls;
