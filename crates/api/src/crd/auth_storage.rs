//! Where the authorization server inside a proxy keeps what it knows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::GO_DURATION;
use super::reference::SecretKeyRef;

/// Where sessions and tokens are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthServerStorage {
    /// `memory` or `redis`. Default: `memory`.
    #[serde(rename = "type")]
    pub kind: Option<AuthServerStore>,
    /// Settings of Redis.
    pub redis: Option<RedisStore>,
}

/// `storage.type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum AuthServerStore {
    #[default]
    Memory,
    Redis,
}

/// Settings of Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "(has(self.addr) && size(self.addr) > 0) != has(self.sentinelConfig)", "message": "exactly one of addr and sentinelConfig must be set"},
    {"rule": "!(has(self.clusterMode) && self.clusterMode) || (has(self.addr) && size(self.addr) > 0)", "message": "clusterMode needs addr"},
]))]
pub struct RedisStore {
    /// Who logs in to Redis.
    pub acl_user_config: RedisUser,
    /// Address as `host:port`.
    pub addr: Option<String>,
    /// The address is one of a Redis cluster.
    pub cluster_mode: Option<bool>,
    /// Sentinels that know the address.
    pub sentinel_config: Option<RedisSentinel>,
    /// How long connecting may take. Default: 5s.
    #[schemars(regex(pattern = GO_DURATION))]
    pub dial_timeout: Option<String>,
    /// How long an answer may take. Default: 3s.
    #[schemars(regex(pattern = GO_DURATION))]
    pub read_timeout: Option<String>,
    /// How long sending may take. Default: 3s.
    #[schemars(regex(pattern = GO_DURATION))]
    pub write_timeout: Option<String>,
    /// TLS with Redis.
    pub tls: Option<RedisTls>,
    /// TLS with the sentinels.
    pub sentinel_tls: Option<RedisTls>,
}

/// Who logs in to Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisUser {
    /// Password.
    pub password_secret_ref: SecretKeyRef,
    /// User name. Default: that of Redis.
    pub username_secret_ref: Option<SecretKeyRef>,
}

/// Sentinels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisSentinel {
    /// Name of the master.
    pub master_name: String,
    /// Addresses of the sentinels as `host:port`.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub sentinel_addrs: Option<Vec<String>>,
    /// Service whose endpoints are the sentinels.
    pub sentinel_service: Option<SentinelService>,
    /// Number of the Redis database. Default: 0.
    pub db: Option<i32>,
}

/// A Service whose endpoints are sentinels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SentinelService {
    /// Name of the Service.
    pub name: String,
    /// Namespace of the Service. Default: that of the object.
    pub namespace: Option<String>,
    /// Port of the sentinels. Default: 26379.
    pub port: Option<i32>,
}

/// TLS with Redis.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RedisTls {
    /// CA certificates, PEM. Default: those of the system.
    pub ca_cert_secret_ref: Option<SecretKeyRef>,
    /// Take any certificate. For development only.
    pub insecure_skip_verify: Option<bool>,
}
