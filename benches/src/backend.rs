//! An MCP server that answers every POST at once with the same result.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use skep_runtime::drain::Drain;
use skep_runtime::http::{Ends, HttpLimits, Load, ResponseBody, bind, full, serve};

/// The answer to a tool call: about as large as real ones are.
const ANSWER: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"It is 21 degrees in Bern, with light wind from the west and no rain before the evening."}],"isError":false}}"#;

/// Starts the server; it runs until the process ends.
///
/// # Errors
/// When no port can be had.
pub fn start() -> anyhow::Result<SocketAddr> {
    let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    let drain = Drain::new();
    let handler = Arc::new(answer as fn(Request<Incoming>, Ends) -> _);
    tokio::spawn(async move {
        serve(listener, handler, HttpLimits::default(), drain.watch(), Load::default()).await;
        drop(drain);
    });
    Ok(address)
}

async fn answer(request: Request<Incoming>, _ends: Ends) -> Response<ResponseBody> {
    let _ = request.into_body().collect().await;
    let mut response = Response::new(full(ANSWER));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
