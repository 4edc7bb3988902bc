//! The Unix socket, and connections that can be cut.

use std::fs::{Permissions, remove_file, set_permissions};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::service::WorkloadApi;
use super::state::Agent;
use super::workload_api::spiffe_workload_api_server::SpiffeWorkloadApiServer;

/// A socket that is served, until this is dropped.
pub(super) struct Running {
    stop: CancellationToken,
    connections: Arc<Connections>,
    task: JoinHandle<()>,
}

/// Handles on open connections; none once they were cut.
struct Connections(Mutex<Option<Vec<StdStream>>>);

/// Serves at once: whoever connects after this returns is answered.
pub(super) fn serve(path: &Path, agent: &Arc<Agent>) -> Running {
    let _ = remove_file(path);
    let listener = UnixListener::bind(path).expect("a socket to listen on");
    set_permissions(path, Permissions::from_mode(0o777)).expect("a socket for everybody");
    let connections = Arc::new(Connections(Mutex::new(Some(Vec::new()))));
    let stop = CancellationToken::new();
    let service = SpiffeWorkloadApiServer::new(WorkloadApi::new(Arc::clone(agent)));
    let incoming = accept(listener, Arc::clone(&connections));
    let stopped = stop.clone().cancelled_owned();
    let task = tokio::spawn(async move {
        let server = Server::builder().add_service(service);
        server.serve_with_incoming_shutdown(incoming, stopped).await.expect("a server of the Workload API");
    });
    Running { stop, connections, task }
}

impl Running {
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        self.connections.cut();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.connections.cut();
        self.task.abort();
    }
}

impl Connections {
    /// None when connections were cut already: a late one is not served.
    fn remember(&self, stream: UnixStream) -> Option<UnixStream> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = stream.into_std().ok()?;
        open.as_mut()?.push(stream.try_clone().ok()?);
        UnixStream::from_std(stream).ok()
    }

    fn cut(&self) {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        for stream in open.into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(
    listener: UnixListener,
    connections: Arc<Connections>,
) -> impl Stream<Item = Result<UnixStream, std::io::Error>> {
    unfold((listener, connections), async |(listener, connections)| {
        loop {
            let (stream, _) = listener.accept().await.ok()?;
            if let Some(stream) = connections.remember(stream) {
                return Some((Ok(stream), (listener, connections)));
            }
        }
    })
}
