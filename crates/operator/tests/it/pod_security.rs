//! Pods with sidecars, by the rules of the Pod Security level `restricted`.

use serde_json::{Value, json};
use skep_operator::sidecars::{
    PodOwner, Policy, Registration, SidecarMode, Socket, Surroundings, mutate_pod,
};

use crate::injection::{complete, on, pod};

/// A rule that a pod keeps or breaks.
type Rule = (&'static str, fn(&Value) -> bool);

/// The rules of the level `restricted`, which are those of `baseline` and more, for pods of Linux.
const RULES: [Rule; 14] = [
    ("host namespaces", |pod| {
        ["hostNetwork", "hostPID", "hostIPC"].iter().all(|field| !is(&pod["spec"][field]))
    }),
    ("privileged", |pod| each(pod, |container| !is(&container["securityContext"]["privileged"]))),
    ("capabilities", |pod| {
        each(pod, |container| {
            let capabilities = &container["securityContext"]["capabilities"];
            let added = strings(&capabilities["add"]);
            strings(&capabilities["drop"]).contains(&"ALL")
                && added.iter().all(|name| *name == "NET_BIND_SERVICE")
        })
    }),
    ("host paths", |pod| volumes(pod).all(|volume| volume.get("hostPath").is_none())),
    ("host ports", |pod| {
        each(pod, |container| {
            container["ports"]
                .as_array()
                .into_iter()
                .flatten()
                .all(|port| matches!(port["hostPort"].as_u64(), None | Some(0)))
        })
    }),
    ("probes at other hosts", |pod| {
        each(pod, |container| {
            ["startupProbe", "livenessProbe", "readinessProbe"].iter().all(|probe| {
                container[probe]["httpGet"]["host"].is_null()
                    && container[probe]["tcpSocket"]["host"].is_null()
            })
        })
    }),
    ("AppArmor", |pod| {
        both(pod, |context| {
            matches!(context["appArmorProfile"]["type"].as_str(), None | Some("RuntimeDefault" | "Localhost"))
        })
    }),
    ("SELinux", |pod| {
        both(pod, |context| {
            let options = &context["seLinuxOptions"];
            options["user"].is_null()
                && options["role"].is_null()
                && matches!(
                    options["type"].as_str(),
                    None | Some(
                        "" | "container_t" | "container_init_t" | "container_kvm_t" | "container_engine_t"
                    )
                )
        })
    }),
    ("/proc", |pod| {
        each(pod, |container| {
            matches!(container["securityContext"]["procMount"].as_str(), None | Some("Default"))
        })
    }),
    ("sysctls", |pod| pod["spec"]["securityContext"]["sysctls"].as_array().is_none_or(Vec::is_empty)),
    ("volume types", |pod| {
        const ALLOWED: [&str; 8] = [
            "configMap",
            "csi",
            "downwardAPI",
            "emptyDir",
            "ephemeral",
            "persistentVolumeClaim",
            "projected",
            "secret",
        ];
        volumes(pod).all(|volume| {
            volume.as_object().unwrap().keys().all(|key| key == "name" || ALLOWED.contains(&key.as_str()))
        })
    }),
    ("privilege escalation", |pod| {
        each(pod, |container| container["securityContext"]["allowPrivilegeEscalation"] == json!(false))
    }),
    ("non-root", |pod| {
        let outer = pod["spec"]["securityContext"]["runAsNonRoot"].as_bool();
        each(pod, |container| container["securityContext"]["runAsNonRoot"].as_bool().or(outer) == Some(true))
            && both(pod, |context| context["runAsUser"].as_i64() != Some(0))
    }),
    ("seccomp", |pod| {
        let kind = |context: &Value| context["seccompProfile"]["type"].as_str().map(ToOwned::to_owned);
        let outer = kind(&pod["spec"]["securityContext"]);
        each(pod, |container| {
            matches!(
                kind(&container["securityContext"]).or_else(|| outer.clone()).as_deref(),
                Some("RuntimeDefault" | "Localhost")
            )
        })
    }),
];

fn is(value: &Value) -> bool {
    value == &json!(true)
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn volumes(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["spec"]["volumes"].as_array().into_iter().flatten()
}

fn each(pod: &Value, rule: impl Fn(&Value) -> bool) -> bool {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    lists.iter().flat_map(|list| pod["spec"][list].as_array().into_iter().flatten()).all(rule)
}

/// A rule about security contexts, of the pod and of its containers.
fn both(pod: &Value, rule: impl Fn(&Value) -> bool) -> bool {
    rule(&pod["spec"]["securityContext"]) && each(pod, |container| rule(&container["securityContext"]))
}

fn broken(pod: &Value) -> Vec<&'static str> {
    RULES.iter().filter(|(_, holds)| !holds(pod)).map(|(name, _)| *name).collect()
}

#[test]
fn sidecars_are_allowed_where_pods_are_restricted() {
    let owner = PodOwner { namespace: "team".to_owned(), name: "weather".to_owned(), ..PodOwner::default() };
    for mode in [SidecarMode::External, SidecarMode::Builtin] {
        for registration in [Registration::Pod, Registration::Operator] {
            for native_sidecars in [false, true] {
                for (socket, expected) in
                    [(Socket::Csi, &[][..]), (Socket::HostPath, &["host paths", "volume types"])]
                {
                    let policy = Policy { mode, registration, socket, ..on() };
                    let around = Surroundings { native_sidecars, ..complete() };
                    let mutation = mutate_pod(&pod(), &owner, &policy, &around);
                    assert!(!mutation.injected.is_empty());
                    assert_eq!(broken(&mutation.result), expected, "{policy:?}");
                }
            }
        }
    }
}

/// Sidecars keep the rules by themselves, so that only the server's own pod decides.
#[test]
fn sidecars_do_not_lean_on_the_pods_security_context() {
    let owner = PodOwner { namespace: "team".to_owned(), name: "weather".to_owned(), ..PodOwner::default() };
    let mut bare = pod();
    bare["spec"]["securityContext"] = json!({"runAsUser": 0});
    let policy = Policy { socket: Socket::Csi, ..on() };
    let mut injected = mutate_pod(&bare, &owner, &policy, &complete()).result;
    injected["spec"]["containers"].as_array_mut().unwrap().remove(0);
    assert_eq!(broken(&injected), ["non-root"]);
    injected["spec"]["securityContext"] = json!({});
    assert_eq!(broken(&injected), [""; 0]);
}

#[test]
fn every_rule_can_be_broken() {
    assert_eq!(broken(&pod()), [""; 0]);
    for (pointer, value, rule) in [
        ("/spec/hostPID", json!(true), "host namespaces"),
        ("/spec/containers/0/securityContext/privileged", json!(true), "privileged"),
        ("/spec/containers/0/securityContext/capabilities", json!({}), "capabilities"),
        ("/spec/volumes", json!([{"name": "a", "hostPath": {}}]), "host paths"),
        ("/spec/containers/0/ports", json!([{"hostPort": 1}]), "host ports"),
        ("/spec/containers/0/livenessProbe", json!({"httpGet": {"host": "a"}}), "probes at other hosts"),
        ("/spec/securityContext/appArmorProfile", json!({"type": "Unconfined"}), "AppArmor"),
        ("/spec/securityContext/seLinuxOptions", json!({"role": "a"}), "SELinux"),
        ("/spec/containers/0/securityContext/procMount", json!("Unmasked"), "/proc"),
        ("/spec/securityContext/sysctls", json!([{}]), "sysctls"),
        ("/spec/volumes", json!([{"name": "a", "nfs": {}}]), "volume types"),
        ("/spec/containers/0/securityContext/allowPrivilegeEscalation", json!(null), "privilege escalation"),
        ("/spec/containers/0/securityContext/runAsUser", json!(0), "non-root"),
        ("/spec/securityContext/seccompProfile", json!(null), "seccomp"),
    ] {
        let mut pod = pod();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[field] = value;
        assert!(broken(&pod).contains(&rule), "{rule}: {:?}", broken(&pod));
    }
}
