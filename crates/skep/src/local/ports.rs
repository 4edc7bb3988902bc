//! Ports on this machine: the one that was asked for, else a free one.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;

/// A listener on loopback.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) listener: TcpListener,
    pub(crate) port: u16,
    /// The port that was asked for, when somebody else has it.
    pub(crate) instead_of: Option<u16>,
}

/// Binds `port` on 127.0.0.1, or a free port when it is taken.
///
/// # Errors
/// When no port can be had at all.
pub(crate) fn bind(port: u16) -> std::io::Result<Bound> {
    let on = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (listener, instead_of) = match skep_runtime::http::bind(on(port)) {
        Ok(listener) => (listener, None),
        Err(_) if port != 0 => (skep_runtime::http::bind(on(0))?, Some(port)),
        Err(error) => return Err(error),
    };
    let port = listener.local_addr()?.port();
    Ok(Bound { listener, port, instead_of })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_replaced() {
        let first = bind(0).unwrap();
        let second = bind(first.port).unwrap();
        assert_eq!(second.instead_of, Some(first.port));
        assert_ne!(second.port, first.port);
    }
}
