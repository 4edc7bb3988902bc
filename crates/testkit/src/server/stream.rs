//! A connection's bytes, in the clear or over TLS.

use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::tls::Tls;

pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// None when the handshake fails.
    pub(super) async fn accept(stream: TcpStream, tls: Option<&Tls>) -> Option<Self> {
        let _ = stream.set_nodelay(true);
        match tls {
            None => Some(Self::Plain(stream)),
            Some(tls) => tls.acceptor().accept(stream).await.ok().map(|stream| Self::Tls(Box::new(stream))),
        }
    }

    /// The client's own certificate, DER.
    pub(super) fn client_certificate(&self) -> Option<Vec<u8>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => {
                stream.get_ref().1.peer_certificates()?.first().map(|certificate| certificate.to_vec())
            }
        }
    }

    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer).await,
            Self::Tls(stream) => stream.read(buffer).await,
        }
    }

    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                // What TLS holds back, the client would wait for.
                stream.flush().await
            }
        }
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush().await,
            Self::Tls(stream) => stream.flush().await,
        }
    }

    /// Closing with a zero linger time makes the kernel send RST.
    pub(super) fn reset_at_close(&self) {
        let socket = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        };
        let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }
}
