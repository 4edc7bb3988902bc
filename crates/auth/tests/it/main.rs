//! Calls to an issuer over real sockets.

// `cfg(test)` tells clippy that helpers in these files are test code too.
#[cfg(test)]
mod aws;
#[cfg(test)]
mod client;
#[cfg(test)]
mod exchange;
#[cfg(test)]
mod hostile_issuers;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod impostors;
#[cfg(test)]
mod introspection;
#[cfg(test)]
mod keycloak;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod shapes;
