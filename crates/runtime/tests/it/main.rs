//! The service shell over real sockets.

// `cfg(test)` tells clippy that helpers in these files are test code too.
#[cfg(test)]
mod listener;
#[cfg(test)]
mod tls;
