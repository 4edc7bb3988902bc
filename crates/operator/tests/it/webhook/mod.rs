//! The admission webhook, with an API server of cardboard behind it.

mod access;
mod envelope;
mod looks;
mod pods;
mod servers;
mod setup;
mod table;
mod validation;
