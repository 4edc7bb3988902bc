//! Admission reviews over HTTPS: latency at a fixed rate while the certificate is exchanged every second, and
//! how many a second go through at most. The webhook has one thread, and so one core at most.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::runtime::watcher::Event;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use skep_api::crd::Kind;
use skep_benches::load::percentile;
use skep_operator::cluster::store::Feed;
use skep_operator::cluster::{Capabilities, Cluster, Resource};
use skep_operator::plan;
use skep_operator::sidecars::{Policy, SidecarConfig};
use skep_operator::webhook::reload::Policies;
use skep_operator::webhook::settings::{AccessReviews, CertificateSource, InjectionPoint, WebhookSettings};
use skep_operator::webhook::{Reviewer, Server, WebhookMetrics};
use skep_runtime::clock::{Clock as _, SystemClock};
use skep_runtime::drain::{Drain, Phase};
use skep_runtime::http::{HttpLimits, Load, Tls, bind, serve_tls};
use skep_runtime::metrics::Metrics;
use skep_runtime::tls::{ServingCertificate, load};
use skep_testkit::TestCa;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// Reviews a second that are offered.
const RATE: u32 = 500;
/// For how long.
const SECONDS: u32 = 10;
/// For how long as many as possible are.
const MOST_SECONDS: u64 = 5;
/// Connections of the API server.
const LANES: u32 = 8;
/// What design and budget allow.
const BUDGET: Duration = Duration::from_millis(2);
/// Objects of each kind in the caches.
const STORED: usize = 1000;

fn main() -> anyhow::Result<()> {
    let ca = TestCa::new();
    let serving = ServingCertificate::empty();
    exchange(&ca, &serving)?;
    let drain = Drain::new();
    let (told, address) = std::sync::mpsc::channel();
    let webhook = std::thread::spawn({
        let (serving, drain) = (serving.clone(), drain.clone());
        move || webhook(&serving, &drain, &told)
    });
    let address = address.recv().context("the webhook did not start")?;
    let offered = offer(&ca, &serving, address);
    drain.advance(Phase::Stopped);
    match webhook.join() {
        Ok(ended) => ended?,
        Err(_) => anyhow::bail!("the webhook panicked"),
    }
    offered?.tell()
}

/// What came out.
struct Offered {
    latencies: Vec<Duration>,
    failures: u64,
    certificates: usize,
    most: f64,
}

impl Offered {
    fn tell(&self) -> anyhow::Result<()> {
        let (median, p99) = (percentile(&self.latencies, 0.5), percentile(&self.latencies, 0.99));
        let verdict = if p99 <= BUDGET { "within" } else { "OVER" };
        let mut out = std::io::stdout().lock();
        writeln!(out, "admission reviews, one thread, {RATE}/s for {SECONDS} s, {LANES} connections")?;
        writeln!(
            out,
            "  p50 {median:?}, p99 {p99:?} ({verdict} the budget of {BUDGET:?}), most {:?}",
            percentile(&self.latencies, 1.0)
        )?;
        writeln!(
            out,
            "  {} failures; {} certificates were presented meanwhile",
            self.failures, self.certificates
        )?;
        writeln!(out, "  at most {:.0}/s", self.most)?;
        anyhow::ensure!(self.failures == 0, "{} reviews failed", self.failures);
        anyhow::ensure!(
            self.certificates as u64 >= u64::from(SECONDS) / 2,
            "the certificate was not exchanged"
        );
        Ok(())
    }
}

/// The webhook, on one thread.
fn webhook(
    serving: &ServingCertificate,
    drain: &Drain,
    told: &std::sync::mpsc::Sender<SocketAddr>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        told.send(listener.local_addr()?)?;
        let tls = Tls::new(serving.server_config()?);
        let server = Arc::new(Server::new(reviewer()));
        serve_tls(listener, tls, server, HttpLimits::default(), drain.watch(), Load::default()).await;
        Ok(())
    })
}

/// A reviewer with filled caches, and an API server that lets everybody do everything.
fn reviewer() -> Arc<Reviewer> {
    let service = tower::service_fn(|request: Request<Body>| async move {
        let path = request.uri().path().to_owned();
        let (code, body) = if path.ends_with("/subjectaccessreviews") {
            let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
            let mut review: Value = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
            if let Some(review) = review.as_object_mut() {
                review.insert("status".to_owned(), json!({"allowed": true}));
            }
            (201, review)
        } else if path.contains("/configmaps/") {
            let data = json!({"KEYCLOAK_URL": "https://keycloak.example.com", "KEYCLOAK_REALM": "r", "helper.conf": ""});
            (200, json!({"metadata": {"resourceVersion": "1"}, "data": data}))
        } else if path.contains("/secrets/") {
            (200, json!({"metadata": {"resourceVersion": "1"}, "data": {"key": ""}}))
        } else {
            (404, json!({"kind": "Status", "code": 404, "reason": "NotFound"}))
        };
        let mut response = Response::new(Body::from(body.to_string().into_bytes()));
        *response.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
        Ok::<_, Infallible>(response)
    });
    let client = kube::Client::new(service, "default");
    let kinds: BTreeMap<Kind, String> =
        Kind::ALL.into_iter().map(|kind| (kind, kind.stored().as_str().to_owned())).collect();
    let capabilities = Capabilities { kinds, ..Capabilities::default() };
    let settings = WebhookSettings {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        certificates: CertificateSource::Files { certificate: "c".into(), key: "k".into() },
        injection_point: InjectionPoint::Server,
        policy: Policy { default_on: true, ..Policy::default() },
        config_base: SidecarConfig::default(),
        config_file: None,
        strict_references: false,
        access_reviews: AccessReviews::Enforce,
        plan: plan::Settings::default(),
    };
    let cluster = Arc::new(Cluster::new(client.clone(), capabilities, settings.plan.clone(), Vec::new()));
    fill(&cluster);
    let policies = Policies::new(settings.policy.clone());
    let metrics = WebhookMetrics::register(&Metrics::new());
    let reviewer = Reviewer::new(client, &settings, policies, metrics, SystemClock::shared());
    reviewer.know(cluster);
    Arc::new(reviewer)
}

fn fill(cluster: &Cluster) {
    let tell = |resource: Resource, object: Value| {
        Feed::new(cluster.store(resource), None).take(Event::Apply(object));
    };
    let metadata =
        |name: &str| json!({"metadata": {"name": name, "namespace": "ns", "resourceVersion": "1"}});
    tell(Resource::Namespace, json!({"metadata": {"name": "ns", "resourceVersion": "1"}}));
    for name in ["environments", "spiffe-helper-config"] {
        tell(Resource::ConfigMapMetadata, metadata(name));
    }
    for name in ["keycloak-admin-secret", "keycloak-registration", "api"] {
        tell(Resource::SecretMetadata, metadata(name));
    }
    tell(Resource::Ours(Kind::MCPOIDCConfig), object(Kind::MCPOIDCConfig, "login", login()));
    for index in 0..STORED {
        tell(Resource::SecretMetadata, metadata(&format!("secret-{index}")));
        let name = format!("server-{index}");
        tell(Resource::Ours(Kind::MCPServer), object(Kind::MCPServer, &name, server()));
    }
}

fn object(kind: Kind, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": format!("toolhive.stacklok.dev/{}", kind.stored().as_str()), "kind": kind.as_str(),
        "metadata": {"name": name, "namespace": "ns", "resourceVersion": "1", "uid": name},
        "spec": spec,
    })
}

fn login() -> Value {
    json!({"type": "inline", "inline": {"issuer": "https://login.example.com"}})
}

/// A server as people have them: an identity provider, a Secret, a template.
fn server() -> Value {
    json!({
        "image": "example/server:1", "transport": "streamable-http", "mcpPort": 8080,
        "oidcConfigRef": {"name": "login", "audience": "tools"},
        "secrets": [{"name": "api", "key": "key", "targetEnvName": "API_KEY"}],
        "resources": {"limits": {"cpu": "1", "memory": "256Mi"}, "requests": {"cpu": "50m", "memory": "64Mi"}},
        "podTemplateSpec": {"spec": {
            "containers": [{"name": "mcp", "env": [{"name": "LOG", "value": "debug"}]}],
            "tolerations": [{"key": "a", "operator": "Exists"}],
        }},
    })
}

/// What the API server asks: mutation and validation of an MCPServer in turn, as it would be for each write.
fn reviews() -> Vec<(String, Bytes)> {
    let review = |path: &str, index: usize| {
        let name = format!("new-{index}");
        let body = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "00000000-0000-0000-0000-000000000000", "operation": "CREATE", "namespace": "ns", "name": name,
                "userInfo": {"username": format!("user-{}", index % 10), "groups": ["system:authenticated", "dev"]},
                "object": object(Kind::MCPServer, &name, server()), "oldObject": null,
            },
        });
        (
            format!("/{path}-toolhive-stacklok-dev-v1beta1-mcpserver?timeout=10s"),
            Bytes::from(body.to_string()),
        )
    };
    (0..100).flat_map(|index| [review("mutate", index), review("validate", index)]).collect()
}

/// Another certificate from now on.
fn exchange(ca: &TestCa, serving: &ServingCertificate) -> anyhow::Result<()> {
    let made = ca.server(&["127.0.0.1", "localhost"]);
    let now = SystemClock.now();
    serving.set(load(made.certificate_pem.as_bytes(), made.key_pem.as_bytes(), now)?);
    Ok(())
}

/// The API server's side.
#[derive(Clone)]
struct ApiServer {
    connector: TlsConnector,
    address: SocketAddr,
    reviews: Arc<Vec<(String, Bytes)>>,
    /// Goes up with each exchange of the certificate.
    generation: Arc<AtomicU64>,
    presented: Arc<Mutex<BTreeSet<Vec<u8>>>>,
    failures: Arc<AtomicU64>,
}

impl ApiServer {
    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let stream = self.connector.connect(ServerName::try_from("localhost")?, stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.context("no certificate")?.to_vec();
        self.presented.lock().unwrap_or_else(PoisonError::into_inner).insert(certificate);
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn once(&self, sender: &mut SendRequest<Full<Bytes>>, number: u32) -> anyhow::Result<()> {
        let index = number as usize % self.reviews.len();
        let (path, body) = self.reviews.get(index).context("no review")?;
        let request = Request::post(path.as_str())
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.clone()))?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let allowed = body.windows(14).any(|part| part == b"\"allowed\":true");
        anyhow::ensure!(status == StatusCode::OK && allowed, "{status}: {}", String::from_utf8_lossy(&body));
        Ok(())
    }

    /// Every `LANES`th review of a fixed rate, on one connection that is opened anew after each exchange.
    async fn lane(self, lane: u32, start: Instant) -> anyhow::Result<Vec<Duration>> {
        let mut found = Vec::new();
        let mut number = lane;
        let mut generation = self.generation.load(Ordering::SeqCst);
        let mut sender = self.connect().await?;
        while number < RATE * SECONDS {
            let due = start + Duration::from_secs(1) / RATE * number;
            tokio::time::sleep_until(due.into()).await;
            let begun = Instant::now().max(due);
            if let Err(error) = self.once(&mut sender, number).await {
                self.failures.fetch_add(1, Ordering::SeqCst);
                writeln!(std::io::stderr().lock(), "a review failed: {error:#}")?;
                sender = self.connect().await?;
            }
            found.push(begun.elapsed());
            number += LANES;
            let now = self.generation.load(Ordering::SeqCst);
            if now != generation {
                generation = now;
                sender = self.connect().await?;
            }
        }
        Ok(found)
    }

    async fn at_most(self, lane: u32, until: Instant) -> anyhow::Result<u64> {
        let mut sender = self.connect().await?;
        let (mut count, mut number) = (0, lane);
        while Instant::now() < until {
            self.once(&mut sender, number).await?;
            number = number.wrapping_add(LANES);
            count += 1;
        }
        Ok(count)
    }
}

fn offer(ca: &TestCa, serving: &ServingCertificate, address: SocketAddr) -> anyhow::Result<Offered> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let api = ApiServer {
        connector: TlsConnector::from(Arc::new(config)),
        address,
        reviews: Arc::new(reviews()),
        generation: Arc::default(),
        presented: Arc::default(),
        failures: Arc::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut sender = api.connect().await?;
        // What is read once is read.
        for number in 0..200 {
            api.once(&mut sender, number).await?;
        }
        let start = Instant::now() + Duration::from_millis(50);
        let mut lanes = JoinSet::new();
        for lane in 0..LANES {
            lanes.spawn(api.clone().lane(lane, start));
        }
        let mut latencies = Vec::new();
        let mut each_second = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                lane = lanes.join_next() => match lane {
                    Some(found) => latencies.extend(found??),
                    None => break,
                },
                _ = each_second.tick() => {
                    exchange(ca, serving)?;
                    api.generation.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        latencies.sort();
        let certificates = api.presented.lock().unwrap_or_else(PoisonError::into_inner).len();
        let begun = Instant::now();
        let mut lanes = JoinSet::new();
        for lane in 0..LANES {
            lanes.spawn(api.clone().at_most(lane, begun + Duration::from_secs(MOST_SECONDS)));
        }
        let mut count = 0;
        while let Some(found) = lanes.join_next().await {
            count += found??;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
        let most = count as f64 / begun.elapsed().as_secs_f64();
        Ok(Offered { latencies, failures: api.failures.load(Ordering::SeqCst), certificates, most })
    })
}
