//! ToolHive's integration tests of its operator, case by case, each with the tests that prove it here. The
//! tests stand with their subjects; this file keeps the list whole. Paths are below this crate's `tests/`.

use std::path::Path;

use skep_api::yaml::single;

/// A file and a test in it.
type Proof = (&'static str, &'static str);

const AUTH: &str = "cluster/rows_external_auth.rs";
const AUTHZ: &str = "cluster/rows_authz.rs";
const CONFIGS: &str = "cluster/rows_configs.rs";
const GROUP: &str = "cluster/rows_group.rs";
const OIDC: &str = "cluster/rows_oidc.rs";
const PODS: &str = "cluster/rows_server_pods.rs";
const PROXY: &str = "cluster/rows_remote_proxy.rs";
const REFERENCES: &str = "cluster/references.rs";
const SERVER: &str = "cluster/rows_server.rs";
const MIGRATION: &str = "cluster/migration.rs";
const MIGRATOR: &str = "../src/migrator/tests.rs";

const BLOCKED: Proof = (REFERENCES, "a_config_stays_until_the_last_referrer_of_any_kind_is_gone");
const EDITED_EXCHANGE: Proof =
    (AUTH, "an_edited_exchange_reaches_the_status_and_the_run_config_of_who_refers_to_it");
const NO_AUTHORIZATION_SERVER: Proof =
    (AUTH, "an_authorization_server_is_refused_by_name_until_there_is_one");
const OIDC_REACHES: Proof =
    (OIDC, "an_oidc_config_reaches_the_status_and_the_run_config_of_who_refers_to_it");
const OIDC_MISSING: Proof = (OIDC, "an_oidc_config_that_is_missing_or_broken_lets_nobody_in");
const PROXY_MADE: Proof = (PROXY, "a_remote_proxy_gets_its_deployment_its_service_and_its_rights");
const PROXY_LACKS: Proof = (PROXY, "what_a_remote_proxy_lacks_is_a_condition_and_one_warning");
const PROXY_TOOLS: Proof = (PROXY, "a_tool_config_is_missing_there_or_changed");
const POLICIES: Proof = (AUTHZ, "shared_policies_reach_workloads_and_broken_ones_do_not");
const POLICIES_JUDGED: Proof = (AUTHZ, "an_authz_config_is_judged_hashed_and_judged_again");
const NO_GROUP: Proof = (GROUP, "a_group_that_is_not_there_is_no_obstacle");
const SERVER_MADE: Proof = (SERVER, "a_server_gets_its_proxy_its_services_its_rights_and_its_backend");
const RUN_CONFIG: Proof = (SERVER, "the_run_config_follows_the_spec_and_nothing_else");
const BAD_TEMPLATE: Proof = (PODS, "an_invalid_pod_template_makes_nothing_and_heals_when_it_is_mended");
const TEMPLATE: Proof = (PODS, "a_pod_template_reaches_the_backend_and_not_the_proxy");
const PULL_SECRETS: Proof = (PODS, "pull_secrets_that_are_added_or_changed_reach_pods_and_accounts");
const ACCOUNT: Proof = (PODS, "a_service_account_of_the_manifest_is_the_backends");
const GENERATION: Proof = (PODS, "the_generation_is_on_the_pods_and_moves_only_with_them");
const TELEMETRY: Proof = (CONFIGS, "a_telemetry_config_is_judged_hashed_and_judged_again");
const TOOLS: Proof = (CONFIGS, "a_tool_config_has_a_finalizer_a_hash_and_a_verdict");
const TOOLS_FOR_MANY: Proof = (CONFIGS, "one_tool_config_serves_many_and_an_edit_moves_all_of_them");

/// Suite, case, and the tests that prove it.
const ROWS: &[(&str, &str, &[Proof])] = &[
    // MCPExternalAuthConfig
    (
        "mcp-external-auth/controller",
        "a hash is set",
        &[(AUTH, "an_external_auth_config_has_a_finalizer_a_hash_and_a_verdict")],
    ),
    (
        "mcp-external-auth/controller",
        "the finalizer is set",
        &[(AUTH, "an_external_auth_config_has_a_finalizer_a_hash_and_a_verdict")],
    ),
    ("mcp-external-auth/controller", "the server's status has the hash", &[EDITED_EXCHANGE]),
    ("mcp-external-auth/controller", "the exchange is in the RunConfig", &[EDITED_EXCHANGE]),
    (
        "mcp-external-auth/controller",
        "an edit changes the hash",
        &[
            (AUTH, "an_external_auth_config_has_a_finalizer_a_hash_and_a_verdict"),
            (
                "it/changes.rs",
                "a_secret_that_is_rotated_changes_the_hash_of_the_config_that_names_it_and_no_other",
            ),
        ],
    ),
    (
        "mcp-external-auth/controller",
        "an edit moves the server",
        &[EDITED_EXCHANGE, (REFERENCES, "exactly_the_referrers_are_moved_by_a_change")],
    ),
    ("mcp-external-auth/controller", "deletion is blocked while it is referred to", &[BLOCKED]),
    ("mcp-external-auth/controller", "it goes when the referrer is gone", &[BLOCKED]),
    // MCPGroup
    (
        "mcp-group",
        "servers that were there are found",
        &[(GROUP, "a_group_finds_those_who_were_there_and_those_who_come")],
    ),
    (
        "mcp-group",
        "a new server is found",
        &[(GROUP, "a_group_finds_those_who_were_there_and_those_who_come")],
    ),
    (
        "mcp-group",
        "it stays ready when a member is deleted",
        &[(GROUP, "a_group_stays_ready_when_members_go_or_fail")],
    ),
    (
        "mcp-group",
        "it stays ready when a member's state changes",
        &[(GROUP, "a_group_stays_ready_when_members_go_or_fail")],
    ),
    (
        "mcp-group",
        "members of other namespaces do not count",
        &[(GROUP, "a_group_has_members_of_its_own_namespace_only")],
    ),
    // MCPOIDCConfig
    (
        "mcp-oidc-config/controller",
        "condition and hash",
        &[(OIDC, "an_oidc_config_has_a_finalizer_a_hash_and_a_verdict")],
    ),
    (
        "mcp-oidc-config/controller",
        "an edit changes the hash",
        &[(OIDC, "an_oidc_config_has_a_finalizer_a_hash_and_a_verdict")],
    ),
    (
        "mcp-oidc-config/controller",
        "it goes when it is deleted",
        &[(OIDC, "an_oidc_config_has_a_finalizer_a_hash_and_a_verdict")],
    ),
    ("mcp-oidc-config/mcpserver", "the reference is validated", &[OIDC_REACHES]),
    ("mcp-oidc-config/mcpserver", "the hash is copied", &[OIDC_REACHES]),
    ("mcp-oidc-config/mcpserver", "deletion is blocked, then allowed", &[BLOCKED]),
    ("mcp-oidc-config/mcpserver", "a missing config is not found", &[OIDC_MISSING]),
    ("mcp-oidc-config/mcpremoteproxy", "the reference is validated and the hash copied", &[OIDC_REACHES]),
    ("mcp-oidc-config/mcpremoteproxy", "a missing config fails the proxy", &[OIDC_MISSING]),
    ("mcp-oidc-config/mcpremoteproxy", "a new hash goes on to the proxy", &[OIDC_REACHES]),
    (
        "mcp-oidc-config/mcpremoteproxy",
        "without the reference there is neither hash nor condition",
        &[OIDC_REACHES],
    ),
    ("mcp-oidc-config/mcpremoteproxy", "deletion is blocked, then allowed", &[BLOCKED]),
    // MCPRemoteProxy
    ("mcp-remote-proxy/controller", "Deployment, account and custom port", &[PROXY_MADE]),
    (
        "mcp-remote-proxy/controller",
        "a service account of its own",
        &[(PROXY, "a_service_account_of_the_manifest_takes_the_place_of_ours")],
    ),
    ("mcp-remote-proxy/controller", "Service and its port", &[PROXY_MADE]),
    ("mcp-remote-proxy/controller", "RunConfig", &[PROXY_MADE]),
    ("mcp-remote-proxy/controller", "ServiceAccount, Role and RoleBinding", &[PROXY_MADE]),
    (
        "mcp-remote-proxy/controller",
        "pending first",
        &[PROXY_MADE, ("cluster/remote_proxy.rs", "everything_that_belongs_to_it_is_made_and_goes_with_it")],
    ),
    ("mcp-remote-proxy/controller", "observed generation, URL and message", &[PROXY_MADE]),
    (
        "mcp-remote-proxy/controller",
        "external auth is missing",
        &[(AUTH, "a_remote_proxy_says_that_its_external_auth_is_missing_there_or_broken")],
    ),
    (
        "mcp-remote-proxy/controller",
        "external auth is there",
        &[(AUTH, "a_remote_proxy_says_that_its_external_auth_is_missing_there_or_broken")],
    ),
    ("mcp-remote-proxy/controller", "external auth is edited", &[EDITED_EXCHANGE]),
    ("mcp-remote-proxy/controller", "a tool config is missing", &[PROXY_TOOLS]),
    ("mcp-remote-proxy/controller", "a tool config is there", &[PROXY_TOOLS]),
    ("mcp-remote-proxy/controller", "a tool config is edited", &[PROXY_TOOLS]),
    ("mcp-remote-proxy/controller", "a group is missing", &[NO_GROUP]),
    (
        "mcp-remote-proxy/controller",
        "a group is ready",
        &[(GROUP, "a_group_finds_those_who_were_there_and_those_who_come"), NO_GROUP],
    ),
    (
        "mcp-remote-proxy/controller",
        "no group",
        &[NO_GROUP, (CONFIGS, "what_refers_to_nothing_says_nothing_of_references")],
    ),
    ("mcp-remote-proxy/controller", "a group comes later", &[NO_GROUP]),
    (
        "mcp-remote-proxy/validation",
        "a URL of another scheme is refused by the schema",
        &[(PROXY, "a_url_of_no_known_scheme_is_refused_at_the_door")],
    ),
    ("mcp-remote-proxy/validation", "Cedar syntax", &[PROXY_LACKS]),
    ("mcp-remote-proxy/validation", "a missing ConfigMap of policies", &[PROXY_LACKS]),
    ("mcp-remote-proxy/validation", "a missing Secret of a header", &[PROXY_LACKS]),
    ("mcp-remote-proxy/authserverref", "another type fails it", &[NO_AUTHORIZATION_SERVER]),
    ("mcp-remote-proxy/authserverref", "both embedded: not ready", &[NO_AUTHORIZATION_SERVER]),
    (
        "mcp-remote-proxy/authzconfigref",
        "a config of Cedar is valid and has a hash",
        &[POLICIES_JUDGED, POLICIES],
    ),
    ("mcp-remote-proxy/authzconfigref", "valid, invalid and valid again", &[POLICIES_JUDGED, POLICIES]),
    ("mcp-remote-proxy/authzconfigref", "an invalid config is not used", &[POLICIES]),
    (
        "mcp-remote-proxy/cabundle",
        "certificates are mounted",
        &[(OIDC, "certificates_of_an_issuer_are_mounted_or_missing")],
    ),
    (
        "mcp-remote-proxy/cabundle",
        "certificates are missing",
        &[(OIDC, "certificates_of_an_issuer_are_mounted_or_missing")],
    ),
    (
        "mcp-remote-proxy/imagepullsecrets_drift",
        "added",
        &[(PROXY, "pull_secrets_of_a_remote_proxy_roll_its_pods")],
    ),
    (
        "mcp-remote-proxy/imagepullsecrets_drift",
        "changed",
        &[(PROXY, "pull_secrets_of_a_remote_proxy_roll_its_pods")],
    ),
    // MCPServer
    ("mcp-server/controller", "stdio: Deployment", &[SERVER_MADE]),
    ("mcp-server/controller", "stdio: RunConfig", &[SERVER_MADE, RUN_CONFIG]),
    ("mcp-server/controller", "stdio: Service", &[SERVER_MADE]),
    ("mcp-server/controller", "stdio: rights", &[SERVER_MADE]),
    ("mcp-server/controller", "observed generation", &[SERVER_MADE]),
    ("mcp-server/controller", "ready", &[(SERVER, "a_server_is_ready_when_its_proxy_and_its_backend_are")]),
    ("mcp-server/controller", "an edit reaches the Deployment", &[SERVER_MADE]),
    (
        "mcp-server/controller",
        "an invalid pod template: condition False, no Deployment, Failed, not ready",
        &[BAD_TEMPLATE],
    ),
    ("mcp-server/controller", "a pod template is edited", &[TEMPLATE]),
    ("mcp-server/controller", "a valid pod template: its reason", &[TEMPLATE]),
    ("mcp-server/controller", "an invalid group: False, and no obstacle", &[NO_GROUP]),
    (
        "mcp-server/controller",
        "a valid group: True, and in its status",
        &[(GROUP, "a_group_finds_those_who_were_there_and_those_who_come")],
    ),
    ("mcp-server/runconfig", "content of the ConfigMap", &[RUN_CONFIG]),
    ("mcp-server/runconfig", "mounts", &[SERVER_MADE]),
    ("mcp-server/runconfig", "unchanged when the spec is", &[RUN_CONFIG]),
    ("mcp-server/runconfig", "changed when the spec is", &[RUN_CONFIG]),
    (
        "mcp-server/runconfig",
        "scaling is set or left out",
        &[(SERVER, "scaling_and_sessions_are_in_the_run_config_when_they_are_said")],
    ),
    (
        "mcp-server/runconfig",
        "telemetry, and the name of the service by default",
        &[(CONFIGS, "telemetry_reaches_the_proxies_that_refer_to_it")],
    ),
    ("mcp-server/runconfig", "oidc", &[OIDC_REACHES]),
    (
        "mcp-server/runconfig",
        "policies in the manifest",
        &[(AUTHZ, "policies_in_the_manifest_and_in_a_config_map_become_files")],
    ),
    ("mcp-server/runconfig", "the same output for the same input", &[RUN_CONFIG]),
    (
        "mcp-server/runconfig",
        "policies in a ConfigMap",
        &[(AUTHZ, "policies_in_the_manifest_and_in_a_config_map_become_files")],
    ),
    ("mcp-server/authserverref", "another type fails it", &[NO_AUTHORIZATION_SERVER]),
    ("mcp-server/authserverref", "a conflict fails it, with a message", &[NO_AUTHORIZATION_SERVER]),
    ("mcp-server/authzconfigref", "a config of Cedar is valid and has a hash", &[POLICIES_JUDGED, POLICIES]),
    ("mcp-server/authzconfigref", "valid, invalid and valid again", &[POLICIES_JUDGED, POLICIES]),
    ("mcp-server/authzconfigref", "an invalid config is not used", &[POLICIES]),
    ("mcp-server/error_recovery", "an invalid pod template is in the way of the Deployment", &[BAD_TEMPLATE]),
    ("mcp-server/error_recovery", "it recovers when it is mended", &[BAD_TEMPLATE]),
    ("mcp-server/generation_freeze", "stamped, and projected into the pod", &[GENERATION]),
    ("mcp-server/generation_freeze", "no drift when nothing changes", &[GENERATION]),
    (
        "mcp-server/generation_freeze",
        "another image, another generation",
        &[
            GENERATION,
            ("it/changes.rs", "a_change_that_a_running_proxy_takes_leaves_the_generation_of_its_pods"),
        ],
    ),
    ("mcp-server/imagepullsecrets_drift", "added", &[PULL_SECRETS]),
    ("mcp-server/imagepullsecrets_drift", "changed", &[PULL_SECRETS]),
    ("mcp-server/serviceaccount", "the proxy's account is made", &[ACCOUNT]),
    ("mcp-server/serviceaccount", "the backend's is not", &[ACCOUNT]),
    (
        "mcp-server/spec_patch",
        "an edit of the spec between two writes of the operator survives",
        &[(PODS, "an_edit_that_comes_between_survives_what_the_operator_writes")],
    ),
    // MCPTelemetryConfig
    ("mcp-telemetry-config", "valid, with a hash", &[TELEMETRY]),
    ("mcp-telemetry-config", "an edit changes the hash", &[TELEMETRY]),
    ("mcp-telemetry-config", "it goes when it is deleted", &[TELEMETRY]),
    ("mcp-telemetry-config", "deletion is blocked by a server", &[BLOCKED]),
    ("mcp-telemetry-config", "deletion is blocked by a remote proxy", &[BLOCKED]),
    // MCPToolConfig
    ("mcp-toolconfig", "finalizer, hash, observed generation and verdict", &[TOOLS]),
    ("mcp-toolconfig", "an edit", &[TOOLS]),
    ("mcp-toolconfig", "an edit goes on to the server", &[TOOLS_FOR_MANY]),
    ("mcp-toolconfig", "deletion is blocked, then allowed", &[BLOCKED]),
    ("mcp-toolconfig", "filter and overrides are in the RunConfig", &[TOOLS_FOR_MANY]),
    ("mcp-toolconfig", "several referrers", &[TOOLS_FOR_MANY]),
    // Storage versions
    (
        "storageversionmigrator",
        "nothing to do",
        &[
            (MIGRATION, "objects_are_stored_anew_and_those_that_are_already_are_not_written"),
            (MIGRATOR, "only_crds_of_ours_that_are_labelled_and_have_something_to_do_are_migrated"),
        ],
    ),
    (
        "storageversionmigrator",
        "updates that change nothing are none",
        &[(MIGRATION, "objects_are_stored_anew_and_those_that_are_already_are_not_written")],
    ),
    (
        "storageversionmigrator",
        "objects are stored anew",
        &[
            (MIGRATION, "objects_are_stored_anew_and_those_that_are_already_are_not_written"),
            (MIGRATOR, "objects_are_written_as_they_are_and_then_the_crd_says_so"),
        ],
    ),
    (
        "storageversionmigrator",
        "a foreign group is left alone",
        &[(MIGRATION, "an_upgrade_from_october_2025_keeps_every_object_and_every_field")],
    ),
    (
        "storageversionmigrator",
        "one without the label is left alone",
        &[(MIGRATION, "an_upgrade_from_october_2025_keeps_every_object_and_every_field")],
    ),
    (
        "storageversionmigrator",
        "pages",
        &[
            (MIGRATION, "more_objects_than_fit_on_a_page_are_all_stored_anew"),
            (MIGRATOR, "all_pages_are_read"),
        ],
    ),
    (
        "storageversionmigrator",
        "nothing is trimmed after a failure",
        &[
            (MIGRATION, "objects_that_the_new_schema_refuses_keep_the_old_version_alive"),
            (MIGRATOR, "nothing_is_trimmed_after_a_failure_and_the_rest_is_written_nonetheless"),
        ],
    ),
    (
        "storageversionmigrator",
        "a conflict is tried again",
        &[(MIGRATOR, "a_conflict_is_tried_again_with_the_object_as_it_is_now")],
    ),
    (
        "storageversionmigrator",
        "a conflict that goes on is no event",
        &[(MIGRATOR, "a_conflict_that_goes_on_is_nothing_to_tell_and_trims_nothing")],
    ),
    (
        "storageversionmigrator",
        "nothing is trimmed once it is stopped",
        &[
            (MIGRATION, "nothing_is_trimmed_once_it_is_stopped"),
            (MIGRATOR, "whoever_is_stopped_trims_nothing"),
        ],
    ),
];

/// Suite, case, why it is decided otherwise here, and the tests of what is done instead.
const OTHERWISE: &[(&str, &str, &str, &[Proof])] = &[
    (
        "mcp-remote-proxy/controller",
        "ready as soon as a pod runs",
        "a pod that takes no calls serves nobody: ready means that one is ready",
        &[(PROXY, "only_a_pod_that_is_ready_makes_a_remote_proxy_ready")],
    ),
    (
        "mcp-remote-proxy/controller",
        "AuthConfigured is absent when all is well",
        "it is measured: the proxies say whether they can judge callers",
        &[PROXY_MADE, ("it/status_measured.rs", "callers_can_be_known_when_every_issuer_can_be_judged")],
    ),
    (
        "mcp-remote-proxy/authserverref",
        "an embedded authorization server in the RunConfig",
        "there is none yet, and nothing runs without the protection it names",
        &[NO_AUTHORIZATION_SERVER],
    ),
    (
        "mcp-remote-proxy/authserverref",
        "an authorization server together with awsSts",
        "there is none yet; awsSts alone runs",
        &[
            NO_AUTHORIZATION_SERVER,
            ("it/credentials.rs", "aws_is_planned_with_its_own_endpoint_and_certificates"),
        ],
    ),
    (
        "mcp-remote-proxy/authserverref",
        "an embedded authorization server in the old place alone",
        "there is none yet; it is refused there too",
        &[NO_AUTHORIZATION_SERVER],
    ),
    (
        "mcp-server/authserverref",
        "an embedded authorization server in the RunConfig",
        "there is none yet, and nothing runs without the protection it names",
        &[NO_AUTHORIZATION_SERVER],
    ),
    (
        "mcp-remote-proxy/authzconfigref",
        "httpv1 is valid",
        "no service is asked for decisions; policies that nobody reads let nobody in",
        &[(AUTHZ, "policies_that_another_service_decides_are_refused_by_name")],
    ),
    (
        "mcp-server/authzconfigref",
        "httpv1 is valid",
        "no service is asked for decisions; policies that nobody reads let nobody in",
        &[(AUTHZ, "policies_that_another_service_decides_are_refused_by_name")],
    ),
    (
        "mcp-server/runconfig",
        "the endpoint of telemetry",
        "the proxy sends nothing over OTLP yet and refuses to start with an endpoint; everything else is there",
        &[(CONFIGS, "telemetry_reaches_the_proxies_that_refer_to_it")],
    ),
    (
        "mcp-server/controller",
        "resources and security context of a pod template inside `--k8s-pod-patch`",
        "the operator makes the StatefulSet itself, so they are in that",
        &[TEMPLATE],
    ),
    (
        "mcp-server/serviceaccount",
        "the custom account inside `--k8s-pod-patch`",
        "the operator makes the StatefulSet itself, so it is in that",
        &[ACCOUNT],
    ),
    (
        "mcp-external-auth/controller",
        "headerInjection does nothing",
        "it is what it says",
        &[("it/credentials.rs", "every_type_works_or_is_refused_by_name")],
    ),
    (
        "mcp-toolconfig",
        "a remote proxy does not block deletion",
        "every kind that refers to a config does",
        &[BLOCKED],
    ),
];

/// What the API server refuses by its schema, or by a rule where it knows rules. Each case is a row of
/// `admission.yaml`, which these tests read.
const ADMISSION: [(&str, &[&str]); 7] = [
    (
        "mcp-external-auth/obo_validation",
        &[
            "minimal",
            "scopes only",
            "all fields",
            "empty",
            "no tenant",
            "no client",
            "neither audience nor scopes",
            "authority with a path",
            "provider in lower case",
            "tenant with a slash",
            "tenant common",
            "authority without https",
            "authority with a slash at its end",
            "authority with a query",
            "authority with a fragment",
            "authority with a user",
            "provider in upper case",
            "tenant of more than 253 characters",
            "more than 20 scopes",
            "scope of more than 256 characters",
        ],
    ),
    (
        "mcp-external-auth/redis_storage_validation",
        &[
            "sentinel alone",
            "address alone",
            "cluster with an address",
            "neither",
            "both",
            "cluster without an address",
        ],
    ),
    (
        "mcp-external-auth/jwt_bearer_validation",
        &[
            "grant alone",
            "audiences of assertions",
            "audience that is no URL",
            "age of zero",
            "actorClaim without expectedAudience",
            "allowedActors without expectedAudience",
        ],
    ),
    (
        "mcp-external-auth/confidential_client_transport_cel",
        &[
            "confidential registration over plain http",
            "confidential registration alone",
            "delegate clients on an http issuer",
        ],
    ),
    (
        "mcp-server/cel_validation",
        &[
            "inline",
            "configMap without its block",
            "inline without its block",
            "configMap with the other block",
            "inline with the other block",
            "everything wrong at once",
            "authzConfig and authzConfigRef",
        ],
    ),
    (
        "mcp-server/sessionstorage_cel",
        &[
            "redis without an address",
            "redis with an empty address",
            "redis with an address",
            "redis with everything",
            "negative database",
            "memory",
            "no replicas",
            "replicas",
            "negative replicas",
            "negative replicas of the backend",
        ],
    ),
    ("mcp-remote-proxy/authzconfig_cel", &["authzConfig alone", "both"]),
];

const ADMISSION_PROOF: [Proof; 2] = [
    ("it/schema_rules.rs", "the_schema_and_the_planner_agree_on_every_row"),
    ("cluster/rows_admission.rs", "what_no_rule_refuses_at_the_door_the_operator_refuses"),
];

/// What is not in ToolHive's tests, and what a user of its operator counts on.
const BESIDES: &[(&str, &[Proof])] = &[
    (
        "kubectl can wait for every kind",
        &[(
            "cluster/rows_operator.rs",
            "every_kind_can_be_waited_for_and_a_restart_of_the_operator_writes_nothing",
        )],
    ),
    (
        "a restart of the operator writes nothing",
        &[(
            "cluster/rows_operator.rs",
            "every_kind_can_be_waited_for_and_a_restart_of_the_operator_writes_nothing",
        )],
    ),
    ("WATCH_NAMESPACE", &[("cluster/rows_operator.rs", "objects_of_other_namespaces_are_not_touched")]),
    (
        "auth can be required",
        &[
            ("cluster/rows_operator.rs", "a_namespace_or_the_operator_can_require_auth"),
            ("cluster/rows_operator.rs", "an_operator_of_all_namespaces_hears_of_a_label_at_once"),
        ],
    ),
    (
        "manifests of October 2025",
        &[("cluster/rows_operator.rs", "manifests_of_october_2025_run_as_they_did_then")],
    ),
    (
        "events",
        &[
            ("cluster/rows_operator.rs", "a_failure_is_told_once_and_its_end_too"),
            ("cluster/rows_operator.rs", "an_event_names_what_stops_an_object_before_what_does_not"),
            BAD_TEMPLATE,
            PROXY_LACKS,
        ],
    ),
    (
        "times of transitions",
        &[("cluster/rows_operator.rs", "a_time_of_transition_moves_only_with_the_status")],
    ),
    (
        "restarts by annotation",
        &[
            (PODS, "a_restart_that_is_asked_for_rolls_the_pods_once"),
            (PODS, "an_immediate_restart_deletes_the_pods_of_the_proxy_and_no_others"),
        ],
    ),
    ("pull secrets of a platform", &[(PODS, "pull_secrets_that_a_platform_adds_to_an_account_stay")]),
    ("overrides", &[(PODS, "overrides_reach_the_proxy_and_never_what_is_the_operators")]),
    ("ToolHive's finalizer", &[(PODS, "toolhives_finalizer_is_honoured_and_what_its_proxy_made_goes")]),
    ("others' finalizers", &[(PODS, "an_object_that_somebody_else_holds_back_says_that_it_goes")]),
    (
        "phases of a server",
        &[
            (SERVER, "a_pod_that_does_not_start_is_a_failure_and_one_that_waits_for_its_image_is_not"),
            ("it/status_workload.rs", "an_mcp_server_is_as_far_as_its_pods_are"),
        ],
    ),
    ("ports, paths and profiles", &[(SERVER, "a_server_keeps_to_its_ports_paths_and_profile")]),
    ("limits and webhooks", &[(SERVER, "a_server_may_limit_calls_or_ask_webhooks_only_once_that_works")]),
    ("pod template of a remote proxy", &[(PROXY, "a_pod_template_is_the_proxys_own")]),
    ("obo", &[(AUTH, "what_runs_nowhere_is_said_by_the_config_and_by_who_refers_to_it")]),
    ("identities that are made up", &[(AUTH, "an_identity_that_is_made_up_is_said")]),
    ("MCPServerEntry", &[(CONFIGS, "an_entry_says_what_of_it_holds_and_makes_nothing")]),
    ("a group is deleted", &[(REFERENCES, "a_group_goes_at_once_and_its_members_say_so")]),
];

/// Suites about kinds that are not ours; an operator beside this one has them.
const NOT_OURS: [&str; 15] = [
    "embedding-server/creation",
    "embedding-server/update",
    "mcp-oidc-config/virtualmcpserver",
    "mcp-registry/deployment_update",
    "mcp-registry/registry_lifecycle",
    "mcp-registry/rbac",
    "mcp-registry/registryserver_config",
    "virtualmcp/authzconfig_cel",
    "virtualmcp/authzconfigref",
    "virtualmcp/compositetool_watch",
    "virtualmcp/elicitation",
    "virtualmcp/embedding_cel",
    "virtualmcp/externalauth_watch and telemetryconfig",
    "virtualmcp/imagepullsecrets and podtemplatespec",
    "virtualmcp/replicas and sessionstorage_cel",
];

#[test]
fn every_row_has_a_test() {
    let proofs = ROWS
        .iter()
        .map(|(suite, case, proofs)| (format!("{suite}: {case}"), *proofs))
        .chain(
            OTHERWISE.iter().map(|(suite, case, why, proofs)| (format!("{suite}: {case} ({why})"), *proofs)),
        )
        .chain(BESIDES.iter().map(|(case, proofs)| ((*case).to_owned(), *proofs)))
        .chain([("what is refused at the door".to_owned(), &ADMISSION_PROOF[..])]);
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut missing = Vec::new();
    for (row, proofs) in proofs {
        assert!(!proofs.is_empty(), "{row}");
        for (file, test) in proofs {
            let path = here.join(file);
            let text =
                std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            if !text.contains(&format!("fn {test}(")) {
                missing.push(format!("{row}: {file} has no {test}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_case_of_the_schema_is_a_row_of_the_list() {
    let list = single(include_str!("../admission.yaml")).unwrap().value;
    let rows: Vec<&str> = list.as_array().unwrap().iter().map(|row| row["row"].as_str().unwrap()).collect();
    for (suite, cases) in ADMISSION {
        for case in cases {
            let row = format!("{suite}: {case}");
            assert!(rows.contains(&row.as_str()), "{row}");
        }
    }
}

#[test]
fn every_test_of_the_rows_is_in_the_list_and_no_case_is_there_twice() {
    let mut seen = std::collections::BTreeSet::new();
    let cases = ROWS.iter().map(|(suite, case, _)| (*suite, *case));
    for case in cases.chain(OTHERWISE.iter().map(|(suite, case, ..)| (*suite, *case))) {
        assert!(seen.insert(case), "{case:?} is there twice");
        assert!(!NOT_OURS.contains(&case.0), "{case:?}");
    }
    let named = include_str!("toolhive_rows.rs");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_string_lossy().starts_with("rows_") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for test in text.split("#[tokio::test").skip(1) {
            let name = test.split("fn ").nth(1).unwrap().split('(').next().unwrap();
            assert!(named.contains(&format!("\"{name}\"")), "{}: {name} proves no row", path.display());
        }
    }
}
