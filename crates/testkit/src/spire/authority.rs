//! Who signs SVIDs: an X.509 authority and a JWT key, of one trust domain.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use serde_json::{Value, json};

use crate::idp::TestKey;
use crate::tls::pem;

/// Clocks of tests don't agree to the second.
const BACKDATED: Duration = Duration::from_secs(10);
const CA_LIFE: Duration = Duration::from_hours(24 * 365);

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// The authorities of a trust domain, the newest of each kind first.
pub(super) struct Authorities {
    trust_domain: String,
    roots: Vec<Root>,
    jwt_keys: Vec<Arc<TestKey>>,
    generation: usize,
}

struct Root {
    issuer: Issuer,
    intermediate: Option<Issuer>,
}

/// An X.509-SVID in DER.
#[derive(Clone)]
pub(super) struct X509 {
    /// Leaf first, one after the other.
    pub(super) chain: Vec<u8>,
    /// PKCS#8.
    pub(super) key: Vec<u8>,
}

impl Authorities {
    pub(super) fn new(trust_domain: &str, now: i64) -> Self {
        let mut new = Self {
            trust_domain: trust_domain.to_owned(),
            roots: Vec::new(),
            jwt_keys: Vec::new(),
            generation: 0,
        };
        new.add_root(now);
        new.add_jwt_key();
        new
    }

    pub(super) fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The SPIFFE ID of the trust domain.
    pub(super) fn id(&self) -> String {
        format!("spiffe://{}", self.trust_domain)
    }

    pub(super) fn add_root(&mut self, now: i64) {
        let with_intermediate = self.roots.first().is_some_and(|root| root.intermediate.is_some());
        let issuer = Issuer::self_signed(self.ca(now), key()).expect("a certificate of an authority");
        self.roots.insert(0, Root { issuer, intermediate: None });
        if with_intermediate {
            self.use_intermediate(now);
        }
    }

    pub(super) fn use_intermediate(&mut self, now: i64) {
        let params = self.ca(now);
        if let Some(root) = self.roots.first_mut() {
            let intermediate =
                Issuer::signed_by(params, key(), &root.issuer).expect("a certificate of an intermediate");
            root.intermediate = Some(intermediate);
        }
    }

    pub(super) fn add_jwt_key(&mut self) {
        self.generation += 1;
        let kid = format!("{}-jwt-{}", self.trust_domain, self.generation);
        self.jwt_keys.insert(0, TestKey::elliptic(&kid));
    }

    pub(super) fn forget_old_jwt_keys(&mut self) {
        self.jwt_keys.truncate(1);
    }

    pub(super) fn jwt_key(&self) -> &TestKey {
        self.jwt_keys.first().expect("a trust domain has a JWT key")
    }

    /// X.509-SVIDs have one URI name and are no CA (X509-SVID standard §2, §4).
    pub(super) fn issue(&self, spiffe_id: &str, now: i64, ttl: Duration) -> X509 {
        let root = self.roots.first().expect("a trust domain has an authority");
        let mut params = params(spiffe_id, now, ttl);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = key();
        let signer = root.intermediate.as_ref().unwrap_or(&root.issuer);
        let leaf = params.signed_by(&key, signer).expect("a certificate of a workload");
        let intermediate = root.intermediate.as_ref().map_or(&[][..], |issuer| issuer.der().as_ref());
        X509 { chain: [leaf.der().as_ref(), intermediate].concat(), key: key.serialize_der() }
    }

    /// All roots in DER, one after the other.
    pub(super) fn bundle(&self) -> Vec<u8> {
        self.roots.iter().flat_map(|root| root.issuer.der().to_vec()).collect()
    }

    pub(super) fn ca_pem(&self) -> String {
        self.roots.iter().map(|root| pem("CERTIFICATE", root.issuer.der())).collect()
    }

    pub(super) fn jwks(&self) -> Value {
        let bare = |key: &Arc<TestKey>| {
            let mut jwk = key.jwk(false);
            if let Some(fields) = jwk.as_object_mut() {
                fields.remove("use");
            }
            jwk
        };
        json!({ "keys": self.jwt_keys.iter().map(bare).collect::<Vec<Value>>() })
    }

    /// A signing certificate names the trust domain alone and signs only (X509-SVID standard §3, §4).
    fn ca(&self, now: i64) -> CertificateParams {
        let mut params = params(&self.id(), now, CA_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }
}

fn params(uri: &str, now: i64, ttl: Duration) -> CertificateParams {
    let at = |seconds: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let now = u64::try_from(now).expect("a time after 1970");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "US");
    params.distinguished_name.push(DnType::OrganizationName, "SPIRE");
    params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("a SPIFFE ID is ASCII"))];
    params.use_authority_key_identifier_extension = true;
    params.not_before = at(now.saturating_sub(BACKDATED.as_secs()));
    params.not_after = at(now + ttl.as_secs());
    params
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}
