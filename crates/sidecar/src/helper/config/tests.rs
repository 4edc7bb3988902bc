use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

/// As the ConfigMap of the platform has it.
const PLATFORM: &str = r#"
    agent_address = "/spiffe-workload-api/spire-agent.sock"
    cmd = ""
    cmd_args = ""
    svid_file_name = "/opt/svid.pem"
    svid_key_file_name = "/opt/svid_key.pem"
    svid_bundle_file_name = "/opt/svid_bundle.pem"
    jwt_svids = [{jwt_audience="kagenti", jwt_svid_file_name="/opt/jwt_svid.token"}]
    jwt_svid_file_mode = 0644
    include_federated_domains = true
"#;

const EVERYTHING: &str = r#"
# Every key there is.
agent_address = "unix:///run/agent.sock"
cmd = "/usr/sbin/nginx"
cmd_args = "-c \"/etc/nginx/my nginx.conf\" -q"
pid_file_name = "/run/nginx.pid"
renew_signal = "SIGHUP"
cert_dir = "/certs"
daemon_mode = true
add_intermediates_to_bundle = true
include_federated_domains = true
omit_expired = true
hint = "internal"
svid_file_name = "svid.pem"
svid_key_file_name = "svid_key.pem"
svid_bundle_file_name = "svid_bundle.pem"
jwt_bundle_file_name = "bundle.json"
cert_file_mode = 0444
key_file_mode = 416
jwt_bundle_file_mode = "0640"
jwt_svid_file_mode = 0
jwt_svids {
  jwt_audience = "one"
  jwt_extra_audiences = ["two", "one", "three"]
  jwt_svid_file_name = "one.token"
}
jwt_svids {
  jwt_audience = "four"
  jwt_svid_file_name = "sub/four.token"
}
health_checks {
  listener_enabled = true
  bind_port = 8082
  liveness_path = "/alive"
  readiness_path = "/there"
}
"#;

fn parse(text: &str) -> Result<HelperConfig, ConfigError> {
    HelperConfig::parse(text, "helper.conf")
}

#[test]
fn the_platforms_configuration_is_read() {
    insta::assert_debug_snapshot!(parse(PLATFORM).unwrap());
}

#[test]
fn every_key_is_read() {
    insta::assert_debug_snapshot!(parse(EVERYTHING).unwrap());
}

#[test]
fn json_says_the_same_as_hcl() {
    let json = r#"{
        "svid_file_name": "a", "svid_key_file_name": "b", "svid_bundle_file_name": "c",
        "jwt_svids": [{"jwt_audience": "x", "jwt_svid_file_name": "d"}],
        "cert_file_mode": 420
    }"#;
    let hcl = "svid_file_name = \"a\"\nsvid_key_file_name = \"b\"\nsvid_bundle_file_name = \"c\"\n\
               jwt_svids {\njwt_audience = \"x\"\njwt_svid_file_name = \"d\"\n}\ncert_file_mode = 0644";
    assert_eq!(parse(json), parse(hcl));
    assert!(parse(json).is_ok());
}

#[test]
fn what_was_left_out_has_the_usual_defaults() {
    let config = parse("jwt_bundle_file_name = \"b.json\"").unwrap();
    assert!(config.daemon && config.health.is_none() && config.agent.is_none() && config.x509.is_none());
    assert_eq!(config.bundle, BundleChoice::default());
    assert_eq!(config.jwt_bundle.unwrap().mode.to_string(), "0600");
    let off = parse("jwt_bundle_file_name = \"b\"\nhealth_checks {\n bind_port = 1\n}").unwrap();
    assert_eq!(off.health, None);
    let on = parse("jwt_bundle_file_name = \"b\"\nhealth_checks {\n listener_enabled = true\n}").unwrap();
    assert_eq!(on.health.map(|health| (health.port, health.liveness_path)), Some((8081, "/live".to_owned())));
}

#[test]
fn files_are_in_the_folder() {
    for (folder, name, path) in [
        ("", "/opt/b", "/opt/b"),
        ("", "b", "b"),
        ("/certs", "b", "/certs/b"),
        ("/certs/", "/b", "/certs/b"),
        ("certs", "sub/b", "certs/sub/b"),
    ] {
        let text = format!("cert_dir = \"{folder}\"\njwt_bundle_file_name = \"{name}\"");
        assert_eq!(parse(&text).unwrap().jwt_bundle.unwrap().path, PathBuf::from(path));
    }
}

#[test]
fn what_has_no_effect_is_noted() {
    let output = "jwt_bundle_file_name = \"b\"\n";
    for (text, note) in [
        ("cmd = \"nginx\"", "cmd is run, but"),
        ("renew_signal = \"SIGHUP\"", "renew_signal has no effect"),
        ("cmd_args = \"-x\"", "cmd_args has no effect"),
    ] {
        let config = parse(&format!("{output}{text}")).unwrap();
        assert!(config.notes.iter().any(|found| found.starts_with(note)), "{text}: {:?}", config.notes);
    }
    assert!(parse(EVERYTHING).unwrap().notes.is_empty());
    assert!(parse(PLATFORM).unwrap().notes.is_empty());
}

/// Each with the whole file it stands in, so that lines count.
const WRONG: [&str; 42] = [
    "",
    "cmd = \"nginx\"",
    "svid_file_name = \"\"\njwt_svids = []",
    "\n\nagentAddress = \"/run/agent.sock\"",
    "Svid_File_Name = \"a\"",
    "svid_filename = \"a\"",
    "jwt_svid_file_nam = \"a\"",
    "jwt_svid_file_name = \"a\"",
    "health_checks {\n  hint = \"a\"\n}",
    "ca_file = \"a\"",
    "hint = \"a\"\n\nhint = \"b\"",
    "jwt_svids = []\njwt_svids = []",
    "svid_file_name = \"a\"",
    "svid_key_file_name = \"a\"\nsvid_bundle_file_name = \"b\"",
    "svid_file_name = \"a\"\nsvid_key_file_name = \"b\"\nsvid_bundle_file_name = \"./b\"\njwt_bundle_file_name = \"a\"",
    "daemon_mode = \"yes\"",
    "daemon_mode = 1",
    "agent_address = 7",
    "agent_address = \"https://agent\"",
    "cert_file_mode = 644",
    "cert_file_mode = 0999",
    "cert_file_mode = true",
    "key_file_mode = -1",
    "jwt_svid_file_mode = 07777",
    "pid_file_name = \"/run/a.pid\"\njwt_bundle_file_name = \"a\"",
    "renew_signal = \"RELOAD\"",
    "cmd = \"a\"\ncmd_args = \"-c \\\"open\"",
    "jwt_svids = \"a\"",
    "jwt_svids = [\n  \"a\"\n]",
    "jwt_svids = [\n  {jwt_audience = \"a\"}\n]",
    "jwt_svids {\n  jwt_svid_file_name = \"a\"\n}",
    "jwt_svids {\n  jwt_audience = \"a\"\n  jwt_svid_filename = \"b\"\n}",
    "jwt_svids {\n  jwt_audience = \"a\"\n  jwt_audience = \"b\"\n}",
    "jwt_svids {\n  jwt_audience = \"a\"\n  jwt_extra_audiences = [\"\"]\n  jwt_svid_file_name = \"b\"\n}",
    "jwt_svids {\n  jwt_audience = \"a\"\n  jwt_extra_audiences = [7]\n  jwt_svid_file_name = \"b\"\n}",
    "health_checks {\n  listen = true\n}",
    "health_checks {\n  bind_port = 70000\n}",
    "health_checks {\n  liveness_path = \"live\"\n}",
    "health_checks {\n  liveness_path = \"/ready\"\n}",
    "health_checks = true",
    "health_checks {}\nhealth_checks {}",
    "cert_dir = \"/certs\nhint = \"x\"",
];

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let mut all = String::new();
    for text in WRONG {
        let error = parse(text).expect_err(text);
        writeln!(all, "{}\n=> {error}\n", text.trim_end()).unwrap();
    }
    insta::assert_snapshot!(all);
}

proptest! {
    #[test]
    fn no_configuration_makes_the_reader_panic(
        lines in prop::collection::vec((prop::sample::select(TOP.keys.to_vec()), "[ -~]{0,20}"), 0..6)
    ) {
        let text: String = lines.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let _ = parse(&text);
    }

    #[test]
    fn a_change_of_one_character_never_panics(at in 0..EVERYTHING.len(), with in "[ -~\n]") {
        let mut text = EVERYTHING.to_owned();
        text.replace_range(at..=at, &with);
        let _ = parse(&text);
    }
}
