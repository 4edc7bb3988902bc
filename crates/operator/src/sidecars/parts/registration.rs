//! The container that registers the client.

use serde_json::{Value, json};

use super::super::names::{
    ADMIN_SECRET, CLIENT_REGISTRATION, ENVIRONMENTS, KEYCLOAK_ADMIN_PASSWORD, KEYCLOAK_ADMIN_USERNAME,
    KEYCLOAK_REALM, KEYCLOAK_URL, REGISTRATION_DIR, REGISTRATION_PORT, REGISTRATION_SECRET,
    REGISTRATION_STATE_DIR, REGISTRATION_STATE_VOLUME, SHARED_DIR, SHARED_VOLUME, SVID_DIR, SVID_VOLUME,
};
use super::super::prerequisites::Login;
use super::super::settings::{Policy, SidecarMode};
use super::{JWT_BUNDLE_FILE, Subject, add, resources, security};

/// What the published image runs: it has the program that registers, and a shell.
const SCRIPT: &str = include_str!("register.sh");
/// A registration says that the server may start when there is a client, or after two minutes. One that does not
/// even say that is started again after so many questions, one every two seconds.
const TRIES: u32 = 300;

/// The container of one pod.
pub(super) fn container(subject: &Subject<'_>, policy: &Policy, login: Login) -> Value {
    let images = &policy.config.images;
    let (image, command) = match policy.mode {
        SidecarMode::External => (&images.client_registration, json!(["/bin/sh", "-c", SCRIPT])),
        SidecarMode::Builtin => (&images.builtin, json!(["/skep", "sidecar", "register-client"])),
    };
    let mut container = json!({
        "name": CLIENT_REGISTRATION,
        "image": image,
        "imagePullPolicy": policy.config.image_pull_policy.as_str(),
        "command": command,
        "env": env(subject, policy.mode, login),
        "resources": resources(&policy.config.resources.client_registration),
        "securityContext": security(subject),
        "volumeMounts": mounts(policy.mode),
    });
    if subject.native {
        let probe = match policy.mode {
            SidecarMode::External => {
                Some(json!({"exec": {"command": ["test", "-e", "/shared/.started-once"]}}))
            }
            SidecarMode::Builtin if subject.port_taken => None,
            SidecarMode::Builtin => {
                Some(json!({"httpGet": {"path": "/startupz", "port": REGISTRATION_PORT}}))
            }
        };
        if let Some(mut probe) = probe {
            add(&mut probe, "periodSeconds", json!(2));
            add(&mut probe, "failureThreshold", json!(TRIES));
            add(&mut container, "startupProbe", probe);
        }
        add(&mut container, "restartPolicy", json!("Always"));
    }
    container
}

/// Where a built-in registration answers: to the node only where that asks, and nowhere when its port is taken.
fn health_address(subject: &Subject<'_>) -> String {
    match (subject.port_taken, subject.native) {
        (true, _) => "0".to_owned(),
        (false, true) => format!(":{REGISTRATION_PORT}"),
        (false, false) => format!("127.0.0.1:{REGISTRATION_PORT}"),
    }
}

fn env(subject: &Subject<'_>, mode: SidecarMode, login: Login) -> Vec<Value> {
    // Optional, so that the container starts and says itself what is missing.
    let from = |kind: &str, object: &str, key: &str| json!({"name": key, "valueFrom": {kind: {"name": object, "key": key, "optional": true}}});
    let says = |name: &str, value: &str| json!({"name": name, "value": value});
    let place = match login {
        Login::AdminSecret => Some(("secretKeyRef", ADMIN_SECRET)),
        Login::AdminConfigMap | Login::AdminConfigMapLater => Some(("configMapKeyRef", ENVIRONMENTS)),
        Login::RegistrationSecret | Login::Nothing => None,
    };
    let mut env: Vec<Value> =
        [KEYCLOAK_URL, KEYCLOAK_REALM].map(|key| from("configMapKeyRef", ENVIRONMENTS, key)).into();
    if let Some((kind, object)) = place {
        env.extend([KEYCLOAK_ADMIN_USERNAME, KEYCLOAK_ADMIN_PASSWORD].map(|key| from(kind, object, key)));
    }
    env.extend([
        says("CLIENT_NAME", &format!("{}/{}", subject.namespace, subject.server)),
        says("NAMESPACE", subject.namespace),
        says("SECRET_FILE_PATH", "/shared/client-secret.txt"),
    ]);
    match mode {
        SidecarMode::External => env.push(says("SPIRE_ENABLED", "true")),
        SidecarMode::Builtin => env.extend([
            says("JWT_SVID_FILE", "/opt/jwt_svid.token"),
            says("JWT_BUNDLE_FILE", JWT_BUNDLE_FILE),
            says("READY_FILE", "/shared/ready"),
            says("CREDENTIALS_DIR", REGISTRATION_DIR),
            says("STATE_DIR", REGISTRATION_STATE_DIR),
            says("HEALTH_ADDRESS", &health_address(subject)),
        ]),
    }
    if mode == SidecarMode::Builtin && subject.native {
        // It ends after the server, so the server needs no time any more.
        env.push(says("DEREGISTER_DELAY_SECONDS", "0"));
    }
    env
}

fn mounts(mode: SidecarMode) -> Vec<Value> {
    let mut mounts = vec![
        json!({"name": SVID_VOLUME, "mountPath": SVID_DIR, "readOnly": true}),
        json!({"name": SHARED_VOLUME, "mountPath": SHARED_DIR}),
    ];
    if mode == SidecarMode::Builtin {
        mounts.push(json!({"name": REGISTRATION_SECRET, "mountPath": REGISTRATION_DIR, "readOnly": true}));
        mounts.push(json!({"name": REGISTRATION_STATE_VOLUME, "mountPath": REGISTRATION_STATE_DIR}));
    }
    mounts
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    /// Stands in for the image's interpreter: registers as the image of its time did, or fails.
    const INTERPRETER: &str = r#"#!/bin/sh
if [ "$1" = -c ]; then printf 'spiffe://example.org/ns/a/sa/b'; exit 0; fi
echo "$KEYCLOAK_ADMIN_PASSWORD" >> "$ROOT/tries"
if [ -e "$ROOT/gone" ]; then exit 1; fi
if [ -e "$ROOT/down" ]; then rm "$ROOT/down"; exit 1; fi
printf "$SECRET" > "$ROOT/shared/$FILE"
"#;

    struct Image {
        folder: tempfile::TempDir,
    }

    impl Image {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for name in ["opt", "shared", "bin"] {
                std::fs::create_dir(folder.path().join(name)).unwrap();
            }
            let program = folder.path().join("bin/python");
            std::fs::write(&program, INTERPRETER).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            Self { folder }
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.folder.path().join(name)
        }

        fn start(&self, file: &str, secret: &str, password: &str) -> Child {
            self.run(&SCRIPT.replace("delay=5", "delay=0"), file, secret, password)
        }

        fn run(&self, script: &str, file: &str, secret: &str, password: &str) -> Child {
            let root = self.folder.path().to_str().unwrap();
            let script = script
                .replace("/opt/", &format!("{root}/opt/"))
                .replace("/shared/", &format!("{root}/shared/"));
            Command::new("/bin/sh")
                .args(["-c", &script])
                .env("PATH", format!("{root}/bin:/usr/bin:/bin"))
                .envs([("ROOT", root), ("FILE", file), ("SECRET", secret)])
                .envs([("KEYCLOAK_URL", "http://k"), ("KEYCLOAK_REALM", "r")])
                .envs([("KEYCLOAK_ADMIN_USERNAME", "a"), ("KEYCLOAK_ADMIN_PASSWORD", password)])
                .stdout(Stdio::null())
                // Not a pipe: a `sleep` that was just being started may outlive its shell and keep it open.
                .stderr(std::fs::File::create(self.path("log")).unwrap())
                .spawn()
                .unwrap()
        }
    }

    fn read_when(path: &Path, is: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if is(&text) {
                return text;
            }
            assert!(Instant::now() < end, "{} still has {text:?}", path.display());
            std::thread::yield_now();
        }
    }

    fn stop(mut child: Child) -> Option<i32> {
        Command::new("/bin/sh").args(["-c", &format!("kill {}", child.id())]).status().unwrap();
        child.wait().unwrap().code()
    }

    #[test]
    fn the_published_image_leaves_the_same_files_whatever_its_age() {
        for written in ["client-secret.txt", "secret.txt"] {
            let image = Image::new();
            std::fs::write(image.path("down"), "").unwrap();
            let child = image.start(written, "first", "p");
            std::fs::write(image.path("opt/jwt_svid.token"), "a.b.c").unwrap();
            for file in ["client-secret.txt", "secret.txt"] {
                read_when(&image.path("shared").join(file), |text| text == "first");
            }
            let start = image.path("shared/.started-once");
            read_when(&start, |_| start.exists());
            let id = image.path("shared/client-id.txt");
            read_when(&id, |text| text == "spiffe://example.org/ns/a/sa/b");
            assert_eq!(std::fs::metadata(&id).unwrap().permissions().mode() & 0o777, 0o640);
            assert_eq!(std::fs::read_to_string(image.path("tries")).unwrap(), "p\np\n", "it was not down");
            let code = stop(child);
            assert_eq!(code, Some(0), "{}", read_when(&image.path("log"), |_| true));
            // A container that starts again finds its old files, and a new secret counts.
            let child = image.start(written, "second", "p");
            for file in ["client-secret.txt", "secret.txt"] {
                read_when(&image.path("shared").join(file), |text| text == "second");
            }
            stop(child);
        }
    }

    /// Stands in for `sleep`: writes down how long it was to be, and takes no time; but two minutes are over when
    /// the test says so.
    const SLEEP: &str = r#"#!/bin/sh
if [ "$1" = 120 ]; then until [ -e "$ROOT/late" ]; do /bin/sleep 0.01; done; exit 0; fi
echo "$1" >> "$ROOT/slept"
"#;

    #[test]
    fn a_registration_that_fails_is_tried_less_and_less_and_the_server_starts_all_the_same() {
        let image = Image::new();
        let program = image.path("bin/sleep");
        std::fs::write(&program, SLEEP).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(image.path("gone"), "").unwrap();
        std::fs::write(image.path("opt/jwt_svid.token"), "a.b.c").unwrap();
        let child = image.run(SCRIPT, "secret.txt", "x", "wrong");
        let slept = read_when(&image.path("slept"), |text| text.lines().count() > 8);
        let slept: Vec<&str> = slept.lines().take(9).collect();
        assert_eq!(slept, ["5", "10", "20", "40", "80", "160", "300", "300", "300"]);
        let start = image.path("shared/.started-once");
        assert!(!start.exists());
        std::fs::write(image.path("late"), "").unwrap();
        read_when(&start, |_| start.exists());
        assert_eq!(stop(child), Some(0));
    }

    #[test]
    fn a_server_does_not_wait_for_ever_for_an_identity() {
        let image = Image::new();
        let program = image.path("bin/sleep");
        std::fs::write(&program, SLEEP).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(image.path("late"), "").unwrap();
        let child = image.run(SCRIPT, "secret.txt", "x", "p");
        let start = image.path("shared/.started-once");
        read_when(&start, |_| start.exists());
        assert!(!image.path("tries").exists());
        assert_eq!(stop(child), Some(0));
    }

    #[test]
    fn the_published_image_says_what_it_lacks() {
        let image = Image::new();
        let child = image.start("secret.txt", "x", "");
        let log = read_when(&image.path("log"), |log| log.ends_with('\n'));
        assert!(log.ends_with("not set: KEYCLOAK_ADMIN_PASSWORD\n"), "{log}");
        assert!(image.path("shared/.started-once").exists(), "the server waits for what can't be");
        assert_eq!(stop(child), Some(0));
        assert!(!image.path("tries").exists());
    }
}
