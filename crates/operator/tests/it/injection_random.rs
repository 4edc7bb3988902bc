//! Whatever MCPServer is written: injection adds, updates and takes away what is ours and nothing else.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use skep_operator::sidecars::{
    Policy, Registration, SidecarConfig, SidecarMode, Socket, Surroundings, mutate_pod, mutate_server,
    restore_server, written_by_author,
};

use crate::injection::{ANNOTATION, admit, complete, pod};

const CONTAINERS: [&str; 6] = ["mcp", "spiffe-helper", "kagenti-client-registration", "cache", "proxy", ""];
const VOLUMES: [&str; 7] = [
    "shared-data",
    "spire-agent-socket",
    "spiffe-helper-config",
    "svid-output",
    "keycloak-registration",
    "data",
    "tmp",
];
const PATHS: [&str; 4] = ["/var/run/spiffe-svid", "/var/run/skep-client/", "/data", "/opt"];
const VARIABLES: [&str; 4] = ["SPIFFE_SVID_DIR", "SKEP_CLIENT_DIR", "A", "B"];

fn odd() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!(null),
        json!(true),
        json!(0),
        json!(1.0),
        json!(-1),
        json!(18_446_744_073_709_551_615_u64),
        json!(1e300),
        json!(""),
        json!("x\u{0}é"),
        json!([]),
        json!({}),
        json!([null, {"a": null}]),
        json!({"$patch": "replace"}),
    ])
}

/// Absent, null, or one of them.
fn maybe(inner: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Option<Value>> {
    prop_oneof![1 => Just(None), 1 => Just(Some(Value::Null)), 3 => inner.prop_map(Some)].boxed()
}

/// Entries with names from a list, each at most once, with odd fields.
fn entries(
    key: &'static str,
    names: &'static [&'static str],
    extra: &'static [&'static str],
) -> BoxedStrategy<Value> {
    let entry =
        (any::<prop::sample::Index>(), prop::collection::vec((prop::sample::select(extra), odd()), 0..3));
    prop::collection::vec(entry, 0..4)
        .prop_map(move |entries| {
            let mut left: Vec<&str> = names.to_vec();
            let entry = |(name, fields): (prop::sample::Index, Vec<(&str, Value)>)| {
                let name = left.remove(name.index(left.len()));
                let mut map = Map::from_iter([(key.to_owned(), json!(name))]);
                map.extend(fields.into_iter().map(|(field, value)| (field.to_owned(), value)));
                Value::Object(map)
            };
            entries.into_iter().map(entry).collect()
        })
        .boxed()
}

fn container() -> impl Strategy<Value = Value> {
    let mounts = maybe(entries("mountPath", &PATHS, &["name", "readOnly", "subPath"]));
    let env = maybe(entries("name", &VARIABLES, &["value", "valueFrom"]));
    (mounts, env, odd()).prop_map(|(mounts, env, odd)| {
        object([("volumeMounts", mounts), ("env", env), ("resources", Some(odd))])
    })
}

fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect::<Map<_, _>>().into()
}

fn pod_spec() -> impl Strategy<Value = Value> {
    let containers = (
        entries("name", &CONTAINERS, &["image", "securityContext", "x"]),
        prop::collection::vec(container(), 4),
    )
        .prop_map(|(mut list, more)| {
            for (entry, more) in list.as_array_mut().into_iter().flatten().zip(more) {
                if let (Some(entry), Value::Object(more)) = (entry.as_object_mut(), more) {
                    entry.extend(more);
                }
            }
            list
        });
    let init = entries("name", &CONTAINERS, &["image", "restartPolicy"]);
    let volumes = entries("name", &VOLUMES, &["emptyDir", "configMap", "hostPath"]);
    (maybe(containers), maybe(init), maybe(volumes), maybe(odd())).prop_map(
        |(containers, init, volumes, odd)| {
            object([
                ("tolerations", odd),
                ("initContainers", init),
                ("volumes", volumes),
                ("containers", containers),
            ])
        },
    )
}

fn template() -> impl Strategy<Value = Option<Value>> {
    let template = (maybe(odd()), maybe(pod_spec()))
        .prop_map(|(metadata, spec)| object([("metadata", metadata), ("spec", spec)]));
    maybe(template)
}

fn annotations() -> impl Strategy<Value = Option<Value>> {
    maybe(prop::sample::select(vec![
        json!({}),
        json!({"a": "b"}),
        json!({"kagenti.dev/inject": "?", "a": ""}),
    ]))
}

fn servers() -> impl Strategy<Value = Value> {
    let env = maybe(entries("name", &VARIABLES, &["value"]));
    (prop::sample::select(vec!["v1alpha1", "v1beta1"]), annotations(), template(), env, odd()).prop_map(
        |(version, annotations, template, env, odd)| {
            let metadata = object([("name", Some(json!("weather"))), ("annotations", annotations)]);
            let spec = object([("image", Some(json!("a"))), ("odd", Some(odd)), ("podTemplateSpec", template), ("env", env)]);
            json!({"apiVersion": format!("toolhive.stacklok.dev/{version}"), "kind": "MCPServer", "metadata": metadata, "spec": spec})
        },
    )
}

fn policies() -> impl Strategy<Value = Policy> {
    let modes = prop::sample::select(vec![SidecarMode::External, SidecarMode::Builtin]);
    let registrations = prop::sample::select(vec![Registration::Pod, Registration::Operator]);
    let sockets = prop::sample::select(vec![Socket::HostPath, Socket::Csi]);
    let images = prop::sample::select(vec!["a:1", "b:2"]);
    (modes, registrations, sockets, images).prop_map(|(mode, registration, socket, image)| {
        let config = format!("images: {{spiffeHelper: '{image}', builtin: '{image}'}}");
        let config = SidecarConfig::parse(&config).unwrap();
        Policy { default_on: true, mode, registration, socket, config, ..Policy::default() }
    })
}

fn list<'v>(object: &'v Value, pointer: &str) -> Vec<&'v Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten().collect()
}

/// True when `kept` are in `all`, in their order.
fn in_order(kept: &[&Value], all: &[&Value], same: impl Fn(&Value, &Value) -> bool) -> bool {
    let mut all = all.iter();
    kept.iter().all(|kept| all.any(|one| same(kept, one)))
}

/// True for a container of the user's that has at most got mounts and variables of ours.
fn same_container(before: &Value, after: &Value) -> bool {
    let equal = |one: &Value, other: &Value| one == other;
    let without = |container: &Value| {
        let mut map = container.as_object().cloned().unwrap_or_default();
        map.shift_remove("volumeMounts");
        map.shift_remove("env");
        map
    };
    let lists = ["/volumeMounts", "/env"];
    without(before) == without(after)
        && lists.iter().all(|at| in_order(&list(before, at), &list(after, at), equal))
}

fn keeps_the_users(before: &Value, after: &Value) -> bool {
    const POD: &str = "/spec/podTemplateSpec/spec";
    let in_list = |name: &str, same: fn(&Value, &Value) -> bool| {
        let at = format!("{POD}/{name}");
        in_order(&list(before, &at), &list(after, &at), same)
    };
    in_list("containers", same_container)
        && in_list("volumes", |one, other| one == other)
        && before.pointer(&format!("{POD}/initContainers")) == after.pointer(&format!("{POD}/initContainers"))
        && before.pointer("/spec/podTemplateSpec/metadata") == after.pointer("/spec/podTemplateSpec/metadata")
}

/// An annotation that nobody has written like this.
fn garbage() -> impl Strategy<Value = Value> {
    let hashes = prop::collection::btree_map(prop::sample::select(CONTAINERS.to_vec()), "[0-9a-f]{16}", 0..3);
    let made = prop::sample::subsequence(
        vec![
            "podTemplateSpec",
            "spec",
            "containers",
            "volumes",
            "mcp",
            "mcp.env",
            "mcp.volumeMounts",
            "annotations",
            "spec:null",
        ],
        0..9,
    );
    let likely = (hashes, made, odd()).prop_map(|(hashes, made, odd)| {
        json!(json!({"version": 1, "containers": hashes, "volumes": hashes, "env": hashes, "made": made, "x": odd}).to_string())
    });
    prop_oneof![
        likely,
        odd(),
        any::<String>().prop_map(Value::from),
        odd().prop_map(|odd| json!(odd.to_string()))
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn off_gives_back_exactly_what_was_written(object in servers(), first in policies(), second in policies()) {
        let around = complete();
        let on = admit(&object, &first, &around);
        prop_assert!(keeps_the_users(&object, &on.result));
        // An update to anything else is what a first admission with it would have made.
        let updated = admit(&on.result, &second, &around);
        prop_assert_eq!(&updated.result, &admit(&object, &second, &around).result);
        let off = Policy { default_on: false, ..first.clone() };
        let back = admit(&updated.result, &off, &around);
        prop_assert_eq!(back.result.to_string(), object.to_string());
        prop_assert_eq!(written_by_author(&on.result, "team", &first), object.clone());
        prop_assert_eq!(restore_server(&on.result).result, object);
    }

    #[test]
    fn an_edit_of_ours_is_kept(object in servers(), policy in policies(), which in any::<prop::sample::Index>(), odd in odd()) {
        let mut edited = admit(&object, &policy, &complete());
        prop_assume!(!edited.injected.is_empty());
        let name = which.get(&edited.injected).clone();
        let containers = edited.result["spec"]["podTemplateSpec"]["spec"]["containers"].as_array_mut().unwrap();
        let container = containers.iter_mut().find(|one| one["name"] == name).unwrap();
        container["command"] = odd;
        let container = container.clone();
        let again = admit(&edited.result, &policy, &complete());
        let after = list(&again.result, "/spec/podTemplateSpec/spec/containers");
        prop_assert_eq!(after.iter().filter(|one| **one == &container).count(), 1);
        let part = format!("`{name}` was injected and has been changed");
        prop_assert!(again.warnings.iter().any(|warning| warning.contains(&part)));
        prop_assert!(!again.injected.contains(&name));
        let off = restore_server(&again.result);
        prop_assert!(list(&off.result, "/spec/podTemplateSpec/spec/containers").contains(&&container));
    }

    #[test]
    fn no_annotation_takes_away_what_is_the_users(object in servers(), garbage in garbage(), policy in policies(), on in any::<bool>()) {
        let mut object = object;
        if !object["metadata"]["annotations"].is_object() {
            object["metadata"]["annotations"] = json!({});
        }
        object["metadata"]["annotations"][ANNOTATION] = garbage;
        let policy = Policy { default_on: on, ..policy };
        let after = admit(&object, &policy, &complete());
        prop_assert!(keeps_the_users(&object, &after.result));
    }

    #[test]
    fn no_shape_makes_it_panic(template in shapes(), metadata in shapes(), policy in policies()) {
        let object = json!({"metadata": {"name": "a", "annotations": metadata}, "spec": {"podTemplateSpec": template}});
        admit(&object, &policy, &Surroundings::default());
        mutate_server(&json!({"metadata": metadata, "spec": template}), "team", &policy, &complete());
        mutate_pod(&json!({"metadata": metadata, "spec": template}), &Default::default(), &policy, &complete());
        let mut pod = pod();
        pod["metadata"]["annotations"] = metadata;
        mutate_pod(&pod, &Default::default(), &policy, &complete());
    }
}

fn shapes() -> impl Strategy<Value = Value> {
    const KEYS: [&str; 10] = [
        "spec",
        "containers",
        "volumes",
        "initContainers",
        "name",
        "env",
        "volumeMounts",
        "annotations",
        ANNOTATION,
        "mountPath",
    ];
    let leaf = prop_oneof![odd(), prop::sample::select(CONTAINERS.to_vec()).prop_map(Value::from)];
    leaf.prop_recursive(6, 60, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(KEYS.to_vec()), inner), 0..5).prop_map(|entries| {
                entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>().into()
            }),
        ]
    })
}
