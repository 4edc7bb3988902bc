//! The five methods of the Workload API.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value as ProtoValue};
use serde_json::Value;
use tonic::{Request, Response, Status};

use super::state::{Agent, Issued, State};
use super::workload_api::spiffe_workload_api_server::SpiffeWorkloadApi;
use super::workload_api::{
    JwtBundlesRequest, JwtBundlesResponse, JwtSvid, JwtSvidRequest, JwtSvidResponse, ValidateJwtSvidRequest,
    ValidateJwtSvidResponse, X509BundlesRequest, X509BundlesResponse, X509Svid, X509SvidRequest,
    X509SvidResponse,
};
use crate::jose;

pub(super) struct WorkloadApi {
    agent: Arc<Agent>,
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl WorkloadApi {
    pub(super) fn new(agent: Arc<Agent>) -> Self {
        Self { agent }
    }

    /// Counts the call; then the header that keeps browsers and proxies out (Workload API standard §3).
    fn enter<T>(&self, method: &str, request: &Request<T>) -> Result<(), Status> {
        self.agent.called(method);
        match request.metadata().get("workload.spiffe.io") {
            Some(value) if value == "true" => Ok(()),
            _ => Err(Status::invalid_argument("the security header workload.spiffe.io: true is missing")),
        }
    }

    /// A message now and one for every change of it. A refusal is the last one.
    fn watch<T>(&self, render: fn(&State) -> T) -> Messages<T>
    where
        T: Clone + PartialEq + Send + Sync + 'static,
    {
        let (agent, open) = (Arc::clone(&self.agent), self.agent.open_stream());
        let changes = agent.changes();
        let start = Some((changes, None::<T>, open));
        Box::pin(unfold(start, move |watching| {
            let agent = Arc::clone(&agent);
            async move {
                let (mut changes, mut sent, open) = watching?;
                loop {
                    if sent.is_some() {
                        changes.changed().await.ok()?;
                    }
                    changes.mark_unchanged();
                    match agent.read(|state| state.admit().map(|()| render(state))) {
                        Err(refusal) => return Some((Err(refusal), None)),
                        Ok(message) if sent.as_ref() == Some(&message) => {}
                        Ok(message) => {
                            sent = Some(message.clone());
                            return Some((Ok(message), Some((changes, sent, open))));
                        }
                    }
                }
            }
        }))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Messages<X509SvidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509SvidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.enter("FetchX509SVID", &request)?;
        Ok(Response::new(self.watch(x509_svids)))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.enter("FetchX509Bundles", &request)?;
        Ok(Response::new(self.watch(|state| {
            X509BundlesResponse {
                crl: Vec::new(),
                bundles: [(state.own().id(), state.own().bundle())]
                    .into_iter()
                    .chain(federated_bundles(state))
                    .collect(),
            }
        })))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtSvidRequest>,
    ) -> Result<Response<JwtSvidResponse>, Status> {
        self.enter("FetchJWTSVID", &request)?;
        let JwtSvidRequest { audience, spiffe_id } = request.into_inner();
        if audience.is_empty() {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if !spiffe_id.is_empty() && !spiffe_id.starts_with("spiffe://") {
            return Err(Status::invalid_argument("the requested SPIFFE ID is none"));
        }
        self.agent.read(|state| {
            state.admit()?;
            let wanted = state.entries().filter(|entry| spiffe_id.is_empty() || entry.spiffe_id == spiffe_id);
            let issue = |entry: &super::Entry| JwtSvid {
                spiffe_id: entry.spiffe_id.clone(),
                svid: state.jwt(&entry.spiffe_id, &audience, entry.jwt_ttl),
                hint: entry.hint.clone(),
            };
            let svids: Vec<JwtSvid> = wanted.map(issue).collect();
            if svids.is_empty() {
                return Err(Status::permission_denied("no identity issued"));
            }
            Ok(Response::new(JwtSvidResponse { svids }))
        })
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.enter("FetchJWTBundles", &request)?;
        Ok(Response::new(self.watch(|state| {
            let all = std::iter::once(state.own()).chain(state.all_federated());
            JwtBundlesResponse {
                bundles: all.map(|one| (one.id(), one.jwks().to_string().into_bytes())).collect(),
            }
        })))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtSvidRequest>,
    ) -> Result<Response<ValidateJwtSvidResponse>, Status> {
        self.enter("ValidateJWTSVID", &request)?;
        let ValidateJwtSvidRequest { audience, svid } = request.into_inner();
        if audience.is_empty() || svid.is_empty() {
            return Err(Status::invalid_argument("audience and svid must be specified"));
        }
        self.agent.read(|state| {
            state.admit()?;
            let (spiffe_id, claims) = validate(state, &audience, &svid).map_err(Status::invalid_argument)?;
            Ok(Response::new(ValidateJwtSvidResponse { spiffe_id, claims: Some(structure(&claims)) }))
        })
    }
}

fn x509_svids(state: &State) -> X509SvidResponse {
    let svid = |issued: &Issued| X509Svid {
        spiffe_id: issued.entry.spiffe_id.clone(),
        x509_svid: issued.x509.chain.clone(),
        x509_svid_key: issued.x509.key.clone(),
        bundle: state.own().bundle(),
        hint: issued.entry.hint.clone(),
    };
    X509SvidResponse {
        svids: state.issued().iter().map(svid).collect(),
        crl: Vec::new(),
        federated_bundles: federated_bundles(state).collect(),
    }
}

fn federated_bundles(state: &State) -> impl Iterator<Item = (String, Vec<u8>)> {
    state.all_federated().map(|one| (one.id(), one.bundle()))
}

fn validate(state: &State, audience: &str, svid: &str) -> Result<(String, Value), &'static str> {
    let claims = jose::claims(svid).ok_or("the token is no JWT")?;
    let subject = claims.get("sub").and_then(Value::as_str).ok_or("the token has no subject")?.to_owned();
    let mut domains = std::iter::once(state.own()).chain(state.all_federated());
    let issuer = domains
        .find(|one| subject.starts_with(&format!("{}/", one.id())))
        .ok_or("no keys of the subject's trust domain")?;
    jose::verify(&issuer.jwks(), svid).ok_or("the signature is not of the trust domain")?;
    let audiences = claims.get("aud").and_then(Value::as_array);
    if !audiences.is_some_and(|all| all.iter().any(|one| one == audience)) {
        return Err("the token is for another audience");
    }
    if claims.get("exp").and_then(Value::as_i64).is_none_or(|exp| exp <= state.now()) {
        return Err("the token has expired");
    }
    Ok((subject, claims))
}

fn structure(claims: &Value) -> Struct {
    let fields = claims.as_object().into_iter().flatten();
    Struct { fields: fields.map(|(name, value)| (name.clone(), proto(value))).collect() }
}

fn proto(value: &Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(*flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(proto).collect() }),
        Value::Object(_) => Kind::StructValue(structure(value)),
    };
    ProtoValue { kind: Some(kind) }
}
