//! Where a server that hands out tokens without a login may listen.

use std::net::SocketAddr;

use tokio::net::TcpListener;

/// Why the demo identity provider does not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Other machines could reach it.
    #[error(
        "the demo identity provider refuses to listen on {address}: it gives out tokens without a login; \
         use 127.0.0.1 or ::1, or put a real identity provider into the manifest"
    )]
    NotLoopback {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// The system did not give the port.
    #[error("can't listen on {address}")]
    Io {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Binds the listener of the demo identity provider. Only loopback addresses are accepted.
///
/// # Errors
/// When other machines could reach the address, or the port is taken.
pub async fn bind_loopback(address: SocketAddr) -> Result<TcpListener, BindError> {
    require_loopback(address)?;
    TcpListener::bind(address).await.map_err(|source| BindError::Io { address, source })
}

/// Checks an address before or after it was bound by somebody else.
///
/// # Errors
/// When other machines could reach it.
pub fn require_loopback(address: SocketAddr) -> Result<(), BindError> {
    if address.ip().to_canonical().is_loopback() { Ok(()) } else { Err(BindError::NotLoopback { address }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_loopback_addresses_are_bound() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:192.0.2.1]:0", "169.254.169.254:0"] {
            let refused = bind_loopback(address.parse().unwrap()).await;
            assert!(matches!(refused, Err(BindError::NotLoopback { .. })), "{address}");
        }
        let listener = bind_loopback("127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert!(listener.local_addr().unwrap().ip().is_loopback());
    }

    #[tokio::test]
    async fn a_taken_port_is_said() {
        let first = bind_loopback("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let second = bind_loopback(first.local_addr().unwrap()).await;
        assert!(matches!(second, Err(BindError::Io { .. })));
    }
}
