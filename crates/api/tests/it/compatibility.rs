//! Every object that ToolHive's definitions take, ours take: its spec, and the status that its operator
//! writes, which has to survive a takeover and a rollback.
//!
//! ToolHive's definitions are no part of this project. The test reads them from the folder that `SKEP_COMPAT`
//! names, or from `../shared/compat` beside the workspace; without them it is skipped, and says so.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;

use serde_json::Value;
use skep_api::crd::Kind;
use skep_api::crd::definition::definition;
use skep_api::yaml;

/// Where ours differ on purpose: the kind (`*` for all), the end of the path, what differs, and why.
const DIFFERENT: [(&str, &str, &str, &str); 7] = [
    (
        "MCPServer",
        "spec.secrets",
        "list type",
        "two keys of one Secret can be listed; the planner refuses duplicates",
    ),
    ("MCPServer", "spec.secrets", "map keys", "see above"),
    (
        "*",
        "spec.groupRef",
        "type",
        "a bare name, as in 2025, is taken too; the planner judges what is inside",
    ),
    (
        "*",
        "RoleArn",
        "pattern",
        "partitions that are younger than the pattern are taken too; the planner judges the rest",
    ),
    ("*", "roleArn", "pattern", "see above"),
    (
        "*",
        "spec.proxyPort",
        "default",
        "`port` is the same field, and a default would hide it; the planner knows it",
    ),
    ("*", "status.phase", "default", "whoever writes the status writes the phase"),
];

/// It refuses only a combination with a field that ToolHive does not have.
const OURS: &str = "ours";
/// It takes more than what ToolHive has in its place: another rule, or a required field.
const WIDER: &str = "wider";
/// It says what ToolHive's says, in other words; the rows that the operator's tests have of it are ToolHive's.
const SAME: &str = "same";

/// Rules (CEL) of ours that ToolHive does not have in these words: the end of the path, the rule, and why it
/// refuses nothing that ToolHive takes.
const RULES: [(&str, &str, &str); 26] = [
    (
        "tokenExchange",
        "!has(self.actorTokenAudience) || (has(self.actorToken) && self.actorToken == 'serviceAccount')",
        OURS,
    ),
    (
        "tokenExchange",
        "!has(self.clientKeyId) || (has(self.clientAuth) && self.clientAuth == 'private_key_jwt')",
        OURS,
    ),
    (
        "tokenExchange",
        "!has(self.grantType) || self.grantType != 'client_credentials' || !has(self.actorToken) || self.actorToken == 'none'",
        OURS,
    ),
    (
        "tokenExchange",
        "!has(self.spiffe) || (has(self.clientAuth) && self.clientAuth == 'spiffe_jwt') || (has(self.actorToken) && self.actorToken == 'spiffe')",
        OURS,
    ),
    (
        "tokenExchange",
        "has(self.clientCertificateRef) == (has(self.clientAuth) && self.clientAuth == 'tls_client_auth')",
        OURS,
    ),
    (
        "tokenExchange",
        "has(self.audience) || has(self.resource) || (has(self.grantType) && self.grantType == 'client_credentials')",
        WIDER,
    ),
    ("tokenExchange", "has(self.tokenUrl) || has(self.token_url)", WIDER),
    ("spec", "has(self.remoteUrl) || has(self.remoteURL)", WIDER),
    ("spec", "!(has(self.oidcConfig) && has(self.oidcConfigRef))", OURS),
    (
        "spec",
        "!has(self.rateLimiting) || !has(self.rateLimiting.perUser) || has(self.oidcConfig) || has(self.oidcConfigRef) || has(self.authServerRef) || has(self.externalAuthConfigRef)",
        WIDER,
    ),
    (
        "spec",
        "!has(self.rateLimiting) || !has(self.rateLimiting.tools) || self.rateLimiting.tools.all(tool, !has(tool.perUser)) || has(self.oidcConfig) || has(self.oidcConfigRef) || has(self.authServerRef) || has(self.externalAuthConfigRef)",
        WIDER,
    ),
    (
        "authzConfig",
        "has(self.type) && self.type == 'inline' ? !has(self.configMap) : has(self.configMap)",
        SAME,
    ),
    ("authzConfig", "has(self.type) && self.type == 'inline' ? has(self.inline) : !has(self.inline)", SAME),
    (
        "openTelemetry",
        "!has(self.headers) || !has(self.sensitiveHeaders) || self.sensitiveHeaders.all(header, !(header.name in self.headers))",
        SAME,
    ),
    ("delegateClients[]", "size(self.clientSecretRef.name) > 0 && size(self.clientSecretRef.key) > 0", SAME),
    (
        "redis",
        "!(has(self.clusterMode) && self.clusterMode) || (has(self.addr) && size(self.addr) > 0)",
        SAME,
    ),
    ("redis", "(has(self.addr) && size(self.addr) > 0) != has(self.sentinelConfig)", SAME),
    (
        "embeddedAuthServer",
        "!has(self.forceConfidentialRedirectUris) || size(self.forceConfidentialRedirectUris) == 0 || (has(self.allowConfidentialClientRegistration) && self.allowConfidentialClientRegistration)",
        SAME,
    ),
    ("oauth2Config", "!has(self.dcrConfig) || !has(self.clientSecretRef)", SAME),
    ("oauth2Config", "(has(self.clientId) && size(self.clientId) > 0) != has(self.dcrConfig)", SAME),
    ("upstreamProviders[]", "self.type == 'oauth2' ? has(self.oauth2Config) : !has(self.oauth2Config)", SAME),
    ("upstreamProviders[]", "self.type == 'oidc' ? has(self.oidcConfig) : !has(self.oidcConfig)", SAME),
    (
        "trustedIssuers[]",
        "!(has(self.allowMayAct) && self.allowMayAct) || !has(self.allowedDelegateClients) || !('*' in self.allowedDelegateClients)",
        SAME,
    ),
    (
        "trustedIssuers[]",
        "!(has(self.allowPrivateIPs) && self.allowPrivateIPs) || (has(self.jwksUrl) && size(self.jwksUrl) > 0)",
        SAME,
    ),
    (
        "trustedIssuers[]",
        "(has(self.allowedDelegateClients) && size(self.allowedDelegateClients) > 0) || (!(has(self.expectedAudience) && size(self.expectedAudience) > 0) && !(has(self.actorClaim) && size(self.actorClaim) > 0) && !(has(self.actorMatcher) && size(self.actorMatcher) > 0) && !(has(self.allowMayAct) && self.allowMayAct))",
        SAME,
    ),
    (
        "trustedIssuers[]",
        "(has(self.expectedAudience) && size(self.expectedAudience) > 0) || (has(self.jwtBearerGrant) && !(has(self.actorClaim) && size(self.actorClaim) > 0) && !(has(self.actorMatcher) && size(self.actorMatcher) > 0) && !(has(self.allowMayAct) && self.allowMayAct) && !(has(self.allowedActors) && size(self.allowedActors) > 0))",
        SAME,
    ),
];

/// Theirs and ours, compared.
struct Comparison {
    kind: Kind,
    gaps: Vec<String>,
    /// Entries of [`DIFFERENT`] that were met.
    excepted: BTreeSet<usize>,
    /// Entries of [`RULES`] that were met.
    ruled: BTreeSet<usize>,
    seen: usize,
}

impl Comparison {
    fn gap(&mut self, path: &str, what: &str, detail: String) {
        let excepted = DIFFERENT.iter().position(|(kind, end, excepted, _)| {
            (*kind == "*" || *kind == self.kind.as_str()) && path.ends_with(end) && *excepted == what
        });
        match excepted {
            Some(index) => {
                self.excepted.insert(index);
            }
            None => self.gaps.push(format!("{} {path}: {what}: {detail}", self.kind)),
        }
    }

    fn schema(&mut self, theirs: &Value, ours: &Value, path: &str) {
        self.seen += 1;
        let anything =
            ours["x-kubernetes-preserve-unknown-fields"] == true && ours.get("properties").is_none();
        if theirs["type"] != ours["type"] {
            self.gap(path, "type", format!("{} and not {}", ours["type"], theirs["type"]));
            return;
        }
        if anything {
            return;
        }
        if theirs["x-kubernetes-preserve-unknown-fields"] == true {
            self.gap(path, "free form", "ours prunes".to_owned());
        }
        self.words(theirs, ours, path);
        for (bound, wider) in [
            ("minimum", i64::le as fn(&i64, &i64) -> bool),
            ("minLength", i64::le),
            ("minItems", i64::le),
            ("maximum", i64::ge),
            ("maxLength", i64::ge),
            ("maxItems", i64::ge),
            ("maxProperties", i64::ge),
        ] {
            match (theirs[bound].as_i64(), ours[bound].as_i64()) {
                (_, None) => {}
                (Some(their), Some(our)) if wider(&our, &their) => {}
                // Every number of the type is within it.
                (None, Some(0)) if bound.starts_with("min") && bound != "minimum" => {}
                (their, Some(our)) => self.gap(path, bound, format!("{our} and not {their:?}")),
            }
        }
        self.default(theirs, ours, path);
        self.rules(theirs, ours, path);
        if theirs["x-kubernetes-map-type"] != ours["x-kubernetes-map-type"] {
            self.gap(path, "map type", format!("{}", ours["x-kubernetes-map-type"]));
        }
        for text in ["pattern", "format"] {
            // No number that Kubernetes knows is outside int64.
            if ours.get(text).is_some() && ours[text] != theirs[text] && ours[text] != "int64" {
                self.gap(path, text, format!("{} and not {}", ours[text], theirs[text]));
            }
        }
        if theirs["x-kubernetes-list-type"] != ours["x-kubernetes-list-type"] {
            let (our, their) = (&ours["x-kubernetes-list-type"], &theirs["x-kubernetes-list-type"]);
            self.gap(path, "list type", format!("{our} and not {their}"));
        }
        if theirs["x-kubernetes-list-map-keys"] != ours["x-kubernetes-list-map-keys"] {
            let (our, their) = (&ours["x-kubernetes-list-map-keys"], &theirs["x-kubernetes-list-map-keys"]);
            self.gap(path, "map keys", format!("{our} and not {their}"));
        }
        let needed = names(&theirs["required"]);
        for field in names(&ours["required"]) {
            let filled_in = theirs["properties"][&field].get("default").is_some();
            if !needed.contains(&field) || filled_in {
                self.gap(&format!("{path}.{field}"), "required", "ours alone".to_owned());
            }
        }
        for (name, property) in theirs["properties"].as_object().into_iter().flatten() {
            let at = format!("{path}.{name}");
            match ours["properties"].get(name) {
                Some(our) => self.schema(property, our, &at),
                None => self.gap(&at, "field", "ours has none".to_owned()),
            }
        }
        for inner in ["items", "additionalProperties"] {
            match (theirs.get(inner), ours.get(inner)) {
                (Some(their), Some(our)) => self.schema(their, our, &format!("{path}[]")),
                (Some(_), None) => self.gap(path, inner, "ours has none".to_owned()),
                (None, _) => {}
            }
        }
    }

    fn default(&mut self, theirs: &Value, ours: &Value, path: &str) {
        let (their, our) = (theirs.get("default"), ours.get("default"));
        if their != our {
            self.gap(path, "default", format!("{our:?} and not {their:?}"));
        }
    }

    /// An object that was there before a rule can't be changed any more, its status included, when it breaks it.
    fn rules(&mut self, theirs: &Value, ours: &Value, path: &str) {
        let rules = |schema: &Value| -> BTreeSet<String> {
            let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
            rules.map(|rule| plain(rule["rule"].as_str().unwrap())).collect()
        };
        for rule in rules(ours).difference(&rules(theirs)) {
            match RULES.iter().position(|(end, ours, _)| path.ends_with(end) && plain(ours) == *rule) {
                Some(index) => _ = self.ruled.insert(index),
                None => self.gaps.push(format!("{} {path}: rule: {rule}", self.kind)),
            }
        }
    }

    fn words(&mut self, theirs: &Value, ours: &Value, path: &str) {
        let Some(our) = ours["enum"].as_array() else { return };
        match theirs["enum"].as_array() {
            None => self.gap(path, "enum", format!("only {our:?}")),
            Some(their) => {
                for word in their.iter().filter(|word| !our.contains(word)) {
                    self.gap(path, "enum", format!("{word} is missing"));
                }
            }
        }
    }

    fn same(&mut self, theirs: &Value, ours: &Value, pointer: &str) {
        let (their, our) = (theirs.pointer(pointer), ours.pointer(pointer));
        if their != our {
            self.gap(pointer, "differs", format!("{our:?} and not {their:?}"));
        }
    }

    fn version(&mut self, theirs: &Value, ours: &Value) {
        for member in ["/name", "/served", "/storage", "/deprecated", "/subresources"] {
            self.same(theirs, ours, member);
        }
        let columns = |version: &Value| -> Vec<(Value, Value, Value)> {
            version["additionalPrinterColumns"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|column| (column["name"].clone(), column["type"].clone(), column["jsonPath"].clone()))
                .collect()
        };
        let (their, our) = (columns(theirs), columns(ours));
        if their != our {
            self.gap("additionalPrinterColumns", "columns", format!("{our:?} and not {their:?}"));
        }
        let root = "/schema/openAPIV3Schema";
        let (Some(their), Some(our)) = (theirs.pointer(root), ours.pointer(root)) else {
            self.gap(root, "field", "there is none".to_owned());
            return;
        };
        self.schema(their, our, "");
    }
}

fn plain(rule: &str) -> String {
    rule.split_whitespace().collect()
}

fn names(list: &Value) -> BTreeSet<String> {
    list.as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

fn folder() -> PathBuf {
    std::env::var_os("SKEP_COMPAT").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/compat")),
        PathBuf::from,
    )
}

/// Says that this test did not run: to people, and to `hack/test` in the file that `SKEP_SKIPS` names.
fn skip(test: &str, reason: &str) {
    writeln!(std::io::stderr().lock(), "skipped {test}: {reason}").unwrap();
    if let Some(path) = std::env::var_os("SKEP_SKIPS") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{test}: {reason}").unwrap();
    }
}

#[test]
fn everything_that_toolhives_definitions_take_ours_take() {
    let crds = folder().join("crds");
    if !crds.is_dir() {
        let test = "compatibility::everything_that_toolhives_definitions_take_ours_take";
        skip(test, "ToolHive's definitions are not here; SKEP_COMPAT names the folder that holds them");
        return;
    }
    let (mut gaps, mut excepted, mut ruled) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for kind in Kind::ALL {
        let file = crds.join(format!("toolhive.stacklok.dev_{}.yaml", kind.plural()));
        let text =
            std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let theirs = yaml::single(&text).unwrap().value;
        let ours = definition(kind);
        let mut comparison =
            Comparison { kind, gaps: Vec::new(), excepted: BTreeSet::new(), ruled: BTreeSet::new(), seen: 0 };
        for member in ["/metadata/name", "/spec/group", "/spec/scope", "/spec/names"] {
            comparison.same(&theirs, &ours, member);
        }
        let label = "/metadata/labels/toolhive.stacklok.dev~1auto-migrate-storage-version";
        comparison.same(&theirs, &ours, label);
        let (their, our) = (&theirs["spec"]["versions"], &ours["spec"]["versions"]);
        assert_eq!(their.as_array().map(Vec::len), our.as_array().map(Vec::len), "{kind}");
        for (their, our) in their.as_array().unwrap().iter().zip(our.as_array().unwrap()) {
            comparison.version(their, our);
        }
        assert!(comparison.seen > 20, "{kind}: {}", comparison.seen);
        gaps.extend(comparison.gaps);
        excepted.extend(comparison.excepted);
        ruled.extend(comparison.ruled);
    }
    let stale: Vec<_> = DIFFERENT.iter().enumerate().filter(|(index, _)| !excepted.contains(index)).collect();
    assert!(stale.is_empty(), "these differ no more: {stale:?}");
    let stale: Vec<_> = RULES.iter().enumerate().filter(|(index, _)| !ruled.contains(index)).collect();
    assert!(stale.is_empty(), "these rules are not ours any more, or theirs too: {stale:?}");
    gaps.sort();
    gaps.dedup();
    assert!(gaps.is_empty(), "{} gaps:\n{}", gaps.len(), gaps.join("\n"));
}
