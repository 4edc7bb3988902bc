//! Which path is what. Everything that is not named here is not served.

use http::Method;
use url::Url;

use crate::config::ProxyConfig;

/// What a request is for, by path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The MCP endpoint.
    Mcp,
    /// Protected resource metadata (RFC 9728).
    ResourceMetadata,
    /// `/health` in ToolHive's shape.
    Health,
    /// The process is alive.
    Healthz,
    /// The proxy takes calls.
    Readyz,
    /// `/metrics` on the MCP port.
    Metrics,
    /// Nothing.
    NotFound,
}

/// The paths of one proxy.
#[derive(Debug, Clone)]
pub struct Routes {
    mcp: Vec<String>,
}

impl Routes {
    /// Serves `/mcp`, the root, the remote server's own path and the path of the resource URL, each
    /// also under the endpoint prefix.
    pub fn new(config: &ProxyConfig) -> Self {
        let mut mcp = vec!["/".to_owned(), "/mcp".to_owned(), config.target.path().to_owned()];
        if let Some(url) = config.resource_url().and_then(|url| Url::parse(url).ok()) {
            mcp.push(url.path().to_owned());
        }
        if !config.endpoint_prefix.is_empty() {
            let prefixed: Vec<String> = mcp
                .iter()
                .map(|path| format!("{}{}", config.endpoint_prefix, path.trim_end_matches('/')))
                .collect();
            mcp.extend(prefixed);
        }
        Self { mcp }
    }

    /// What `path` is.
    pub fn route(&self, path: &str) -> Route {
        match path {
            "/health" => Route::Health,
            "/healthz" => Route::Healthz,
            "/readyz" => Route::Readyz,
            "/metrics" => Route::Metrics,
            _ if path == skep_auth::challenge::METADATA_PATH => Route::ResourceMetadata,
            _ if path
                .strip_prefix(skep_auth::challenge::METADATA_PATH)
                .is_some_and(|rest| rest.starts_with('/')) =>
            {
                Route::ResourceMetadata
            }
            _ if path.starts_with("/.well-known/") => Route::NotFound,
            _ if self.mcp.iter().any(|mcp| same(mcp, path)) => Route::Mcp,
            _ => Route::NotFound,
        }
    }
}

/// A trailing slash makes no difference.
fn same(ours: &str, path: &str) -> bool {
    ours.trim_end_matches('/') == path.strip_suffix('/').unwrap_or(path)
}

/// Methods of the MCP endpoint.
pub fn served(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::GET | Method::DELETE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_paths_are_served() {
        let routes = Routes { mcp: vec!["/".to_owned(), "/mcp".to_owned(), "/a/b".to_owned()] };
        for (path, expected) in [
            ("/", Route::Mcp),
            ("/mcp", Route::Mcp),
            ("/mcp/", Route::Mcp),
            ("/a/b", Route::Mcp),
            ("/mcp//", Route::NotFound),
            ("/mcp/../x", Route::NotFound),
            ("/MCP", Route::NotFound),
            ("/%6dcp", Route::NotFound),
            ("/health", Route::Health),
            ("/.well-known/oauth-protected-resource", Route::ResourceMetadata),
            ("/.well-known/oauth-protected-resource/mcp", Route::ResourceMetadata),
            ("/.well-known/oauth-protected-resourceful", Route::NotFound),
            ("/.well-known/openid-configuration", Route::NotFound),
        ] {
            assert_eq!(routes.route(path), expected, "{path}");
        }
    }
}
