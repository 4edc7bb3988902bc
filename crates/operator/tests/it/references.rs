//! What an object refers to: enough to plan it, and no more.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use skep_api::crd::{Kind, Object};
use skep_api::yaml::to_yaml_documents;
use skep_operator::plan::{Missing, Reference, Target, World, plan_object, references, references_in};

use crate::cases::cases;
use crate::manifests::{files, world};

/// Everything that an object refers to, directly or through its configs.
fn closure(object: &Object, world: &World) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    let mut open = vec![object];
    while let Some(object) = open.pop() {
        let named = references(object).into_iter().chain(references_in(object, &world.config_maps));
        for reference in named {
            let Target::Object(kind) = reference.target else {
                found.insert(reference);
                continue;
            };
            let config = world.config(kind, &reference.name);
            if found.insert(reference) {
                open.extend(config);
            }
        }
    }
    found
}

/// The world with nothing in it but these.
fn stripped(world: &World, kept: &BTreeSet<Reference>) -> World {
    let keeps = |target: Target, name: &String| kept.contains(&Reference { target, name: name.clone() });
    let mut world = world.clone();
    world.configs.retain(|(kind, name), _| keeps(Target::Object(*kind), name));
    world.config_maps.retain(|name, _| keeps(Target::ConfigMap, name));
    world.secrets.retain(|name, _| keeps(Target::Secret, name));
    world.secret_versions.retain(|name, _| keeps(Target::Secret, name));
    world
}

fn shown(object: &Object, world: &World) -> String {
    format!("{:#?}", plan_object(object, world))
}

/// Every object of a text in the world of all of them.
fn check(name: &str, text: &str, missing: Missing) -> usize {
    let (objects, mut world) = world(text, missing);
    world.secret_versions = world.secrets.keys().map(|name| (name.clone(), format!("v-{name}"))).collect();
    for object in &objects {
        let kept = closure(object, &world);
        let whole = shown(object, &world);
        assert_eq!(shown(object, &stripped(&world, &kept)), whole, "{name}: {}", object.metadata.name);
    }
    objects.len()
}

fn examples(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            examples(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn what_an_object_refers_to_is_all_that_planning_it_needs() {
    let mut paths = files("good");
    paths.extend(files("bad"));
    examples(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples"), &mut paths);
    let mut planned = 0;
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        for missing in [Missing::Refuse, Missing::Warn] {
            planned += check(&path.display().to_string(), &text, missing);
        }
    }
    for case in cases() {
        planned += check(&case.name, &to_yaml_documents(&case.objects), Missing::Refuse);
    }
    assert!(planned > 500, "{planned}");
}

/// A reference that decides nothing would make an operator look again for nothing.
#[test]
fn every_reference_decides_something() {
    let mut tried = 0;
    for case in cases().into_iter().filter(|case| case.problems.is_empty()) {
        let (objects, mut world) = world(&to_yaml_documents(&case.objects), Missing::Refuse);
        world.namespace_labels.clone_from(&case.namespace_labels);
        for object in &objects {
            let kept = closure(object, &world);
            let whole = shown(object, &world);
            for reference in &kept {
                let mut without = kept.clone();
                without.remove(reference);
                let name = &object.metadata.name;
                assert_ne!(
                    shown(object, &stripped(&world, &without)),
                    whole,
                    "{}: {name}: {reference:?}",
                    case.name
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 30, "{tried}");
}

#[test]
fn a_name_that_nothing_can_have_is_no_reference() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServer\nmetadata: {name: s}\nspec: {image: a, secrets: [{name: '../x', key: a}, {name: '', key: a}], toolConfigRef: {name: 'A B'}}\n";
    let (objects, _) = world(text, Missing::Refuse);
    assert!(references(&objects[0]).is_empty(), "{:?}", references(&objects[0]));
}

#[test]
fn an_object_that_was_not_read_refers_to_nothing() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServer\nmetadata: {name: s}\nspec: {image: 5, toolConfigRef: {name: t}}\n";
    let (objects, _) = world(text, Missing::Refuse);
    assert!(references(&objects[0]).is_empty());
}

#[test]
fn what_only_a_config_map_names_is_found_in_its_content() {
    let text = r#"
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPServer
metadata: {name: s}
spec: {image: a, oidcConfig: {type: configMap, configMap: {name: oidc}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: oidc}
data:
  oidc.json: '{"issuer": "https://a.example.com", "audience": "a", "introspectionUrl": "https://a.example.com/i", "clientId": "c", "clientSecretRef": {"name": "client", "key": "k"}, "caBundleRef": {"configMapRef": {"name": "ca"}}}'
"#;
    let (objects, world) = world(text, Missing::Refuse);
    let reference = |target, name: &str| Reference { target, name: name.to_owned() };
    assert_eq!(references(&objects[0]), BTreeSet::from([reference(Target::ConfigMap, "oidc")]));
    assert_eq!(
        references_in(&objects[0], &world.config_maps),
        BTreeSet::from([reference(Target::Secret, "client"), reference(Target::ConfigMap, "ca")])
    );
}

/// Everything that workloads may refer to.
const CONFIGS: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: a}
stringData: {k: x, tls.crt: x, tls.key: x}
---
apiVersion: v1
kind: Secret
metadata: {name: b}
stringData: {k: x}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ca}
data: {ca.crt: "-----BEGIN CERTIFICATE-----"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: oidc}
data: {issuer: 'https://i.example.com', audience: x}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: policies}
data: {authz.json: '{"version": "1.0", "type": "cedarv1", "cedar": {"policies": ["permit(principal, action, resource);"]}}', profile: '{}'}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPOIDCConfig
metadata: {name: oidc}
spec: {type: inline, inline: {issuer: 'https://i.example.com', introspectionUrl: 'https://i.example.com/i', clientId: c, clientSecretRef: {name: a, key: k}, caBundleRef: {configMapRef: {name: ca}}}}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPExternalAuthConfig
metadata: {name: exchange}
spec: {type: tokenExchange, tokenExchange: {tokenUrl: 'https://i.example.com/t', audience: b, clientId: c, clientSecretRef: {name: b, key: k}, caBundleRef: {configMapRef: {name: ca}}}}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPExternalAuthConfig
metadata: {name: certificate}
spec: {type: tokenExchange, tokenExchange: {tokenUrl: 'https://i.example.com/t', audience: b, clientId: c, clientAuth: tls_client_auth, clientCertificateRef: {name: a}}}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPExternalAuthConfig
metadata: {name: bearer}
spec: {type: bearerToken, bearerToken: {tokenSecretRef: {name: b, key: k}}}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPAuthzConfig
metadata: {name: rules}
spec: {type: cedarv1, config: {policies: ["permit(principal, action, resource);"]}}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPToolConfig
metadata: {name: tools}
spec: {toolsFilter: [one]}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPTelemetryConfig
metadata: {name: metrics}
spec: {openTelemetry: {enabled: true, endpoint: 'https://o.example.com', tracing: {enabled: true}, sensitiveHeaders: [{name: X-T, secretKeyRef: {name: a, key: k}}], caBundleRef: {configMapRef: {name: ca}}}}
---
apiVersion: toolhive.stacklok.dev/v1alpha1
kind: MCPWebhookConfig
metadata: {name: hooks}
spec: {validating: [{name: a, url: 'https://h.example.com', hmacSecretRef: {name: b, key: k}}]}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPGroup
metadata: {name: g}
---
"#;

/// Parts of a workload's spec, of which any may be there, and the kind that has them; empty for both.
const PARTS: [(&str, &str); 23] = [
    ("oidcConfigRef: {name: oidc, audience: a}", ""),
    ("oidcConfigRef: {name: gone, audience: a}", ""),
    ("oidcConfig: {type: configMap, configMap: {name: oidc, caBundleRef: {configMapRef: {name: ca}}}}", ""),
    (
        "oidcConfig: {type: inline, inline: {issuer: 'https://i.example.com', audience: a, caBundleRef: {configMapRef: {name: ca}}, additionalIssuers: [{subjectPrefix: 'a:', issuer: 'https://j.example.com', introspectionUrl: 'https://j.example.com/i', clientId: c, clientSecretRef: {name: b, key: k}}]}}",
        "",
    ),
    ("authMode: anonymous", ""),
    ("externalAuthConfigRef: {name: exchange}", ""),
    ("externalAuthConfigRef: {name: certificate}", ""),
    ("externalAuthConfigRef: {name: bearer}", ""),
    ("authServerRef: {name: bearer}", ""),
    ("authServerRef: {kind: MCPAuthServer, name: bearer}", ""),
    ("authzConfigRef: {name: rules}", ""),
    ("authzConfig: {type: configMap, configMap: {name: policies}}", ""),
    ("toolConfigRef: {name: tools}", ""),
    ("telemetryConfigRef: {name: metrics}", ""),
    ("webhookConfigRef: {name: hooks}", ""),
    ("groupRef: {name: g}", ""),
    ("groupRef: other", ""),
    ("sessionStorage: {provider: redis, address: 'r:1', passwordRef: {name: a, key: k}}", ""),
    ("sessionStorage: {provider: memory, passwordRef: {name: a, key: k}}", ""),
    ("secrets: [{name: a, key: k}, {name: b, key: gone}]", "MCPServer"),
    ("permissionProfile: {type: configmap, name: policies, key: profile}", "MCPServer"),
    ("permissionProfile: {name: none}", "MCPServer"),
    (
        "headerForward: {addHeadersFromSecret: [{headerName: X-A, valueSecretRef: {name: a, key: k}}, {headerName: X-B, valueSecretRef: {name: b, key: gone}}]}",
        "MCPRemoteProxy",
    ),
];

proptest! {
    #[test]
    fn any_mixture_is_planned_alike_with_what_it_refers_to(
        picked in prop::collection::vec(prop::sample::select(PARTS.to_vec()), 0..9),
        server in any::<bool>(),
        lenient in any::<bool>(),
        gone in prop::sample::subsequence(vec!["a", "b", "ca", "oidc", "policies", "rules", "g", "exchange"], 0..4),
    ) {
        let (kind, base) = if server {
            (Kind::MCPServer, "image: a, transport: streamable-http")
        } else {
            (Kind::MCPRemoteProxy, "remoteUrl: 'https://m.example.com'")
        };
        let mut fields = BTreeSet::new();
        let mut spec = base.to_owned();
        for (part, only) in picked {
            let field = part.split(':').next().unwrap();
            if (only.is_empty() || only == kind.as_str()) && fields.insert(field) {
                spec.push_str(&format!(", {part}"));
            }
        }
        let text = format!("{CONFIGS}apiVersion: toolhive.stacklok.dev/v1beta1\nkind: {kind}\nmetadata: {{name: w}}\nspec: {{{spec}}}\n");
        let missing = if lenient { Missing::Warn } else { Missing::Refuse };
        let (objects, mut world) = world(&text, missing);
        world.secret_versions = world.secrets.keys().map(|name| (name.clone(), format!("v-{name}"))).collect();
        world.secrets.retain(|name, _| !gone.contains(&name.as_str()));
        world.config_maps.retain(|name, _| !gone.contains(&name.as_str()));
        world.configs.retain(|(_, name), _| !gone.contains(&name.as_str()));
        let object = objects.last().unwrap();
        let kept = closure(object, &world);
        prop_assert_eq!(shown(object, &stripped(&world, &kept)), shown(object, &world));
    }
}
