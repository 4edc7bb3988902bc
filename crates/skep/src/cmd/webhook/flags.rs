//! The flags that say what the webhook does. They are those of the original webhook, and ours.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use skep_operator::plan::{self, PodSidecars};
use skep_operator::sidecars::config::SidecarConfig;
use skep_operator::sidecars::{AdminInPods, Policy, Registration, SidecarMode, Socket};
use skep_operator::webhook::settings::{
    AccessReviews, CertificateSource, InjectionPoint, SelfSigned, WebhookSettings,
};

use crate::cmd::values::{Maybe, duration, switch};

/// Flags of the webhook that don't depend on the process it is in.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Webhook")]
pub(crate) struct Flags {
    /// Inject sidecars where neither the MCPServer nor its namespace says anything about it.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_parser = switch)]
    enable_client_registration: Maybe<bool>,
    /// Port of the HTTPS listener.
    #[arg(long = "port", value_name = "PORT", default_value_t = 9443)]
    port: u16,
    /// Folder with the serving certificate; it is read again when it changes.
    #[arg(long, value_name = "FOLDER", default_value = "/tmp/k8s-webhook-server/serving-certs")]
    webhook_cert_path: PathBuf,
    /// File with the certificate in that folder.
    #[arg(long, value_name = "FILE", default_value = "tls.crt")]
    webhook_cert_name: String,
    /// File with its key in that folder.
    #[arg(long, value_name = "FILE", default_value = "tls.key")]
    webhook_cert_key: String,
    /// Where sidecars are injected: into the pod template of MCPServers, or into their pods.
    #[arg(long, value_name = "WHERE", value_enum, default_value = "mcpserver")]
    injection_point: Point,
    /// Which programs the sidecars are: the two published images, or this one.
    #[arg(long, value_name = "MODE", value_enum, default_value = "external")]
    sidecar_mode: Mode,
    /// Image of built-in sidecars; a config file may say another.
    #[arg(long, value_name = "IMAGE", default_value = "skep:latest")]
    sidecar_image: String,
    /// Where the socket of the SPIFFE Workload API comes from: a folder of the node, or the CSI driver
    /// csi.spiffe.io.
    #[arg(long, value_name = "SOURCE", value_enum, default_value = "hostpath")]
    spire_socket: SocketSource,
    /// Who registers the client in Keycloak: a sidecar, or the operator from its own namespace.
    #[arg(long, value_name = "WHO", value_enum, default_value = "pod")]
    registration: Registrar,
    /// Whether an administrator's name and password may enter a pod (external sidecars only): legacy means where
    /// the ConfigMap `environments` has carried them all along.
    #[arg(long, value_name = "WHEN", value_enum, num_args = 0..=1, require_equals = true, default_value = "legacy", default_missing_value = "true")]
    allow_admin_in_pods: Admin,
    /// File with images, resources and volumes of the sidecars; it is read again when it changes.
    #[arg(long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Make the serving certificate here, and keep the caBundle of the webhook configurations up to date.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    self_signed: Maybe<bool>,
    /// Service by which the API server reaches the webhook (with --self-signed).
    #[arg(long, value_name = "NAME", default_value = "skep-webhook-webhook-service")]
    service_name: String,
    /// Secret and Lease of the certificate (with --self-signed).
    #[arg(long, value_name = "NAME", default_value = "skep-webhook-self-signed-cert")]
    secret_name: String,
    /// MutatingWebhookConfiguration whose caBundle is kept up to date (with --self-signed).
    #[arg(long, value_name = "NAME", default_value = "skep-webhook-mutating-webhook-configuration")]
    mutating_configuration: String,
    /// ValidatingWebhookConfiguration whose caBundle is kept up to date (with --self-signed).
    #[arg(long, value_name = "NAME", default_value = "skep-webhook-validating-webhook-configuration")]
    validating_configuration: String,
    /// How long a certificate is valid; it is renewed when a third of that is left (with --self-signed).
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = duration)]
    certificate_validity: Duration,
    /// How long its CA is valid (with --self-signed).
    #[arg(long, value_name = "TIME", default_value = "730d", value_parser = duration)]
    ca_validity: Duration,
    /// Deny objects that refer to something that does not exist, instead of a warning.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    strict_references: Maybe<bool>,
    /// What becomes of a manifest that asks for what its author could not do himself.
    #[arg(long, value_name = "WHAT", value_enum, default_value = "enforce")]
    access_reviews: Reviews,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Point {
    Mcpserver,
    Pod,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    External,
    Builtin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SocketSource {
    Hostpath,
    Csi,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Registrar {
    Pod,
    Operator,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Admin {
    Legacy,
    True,
    False,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Reviews {
    Enforce,
    Warn,
}

impl Flags {
    /// What comes with pods; none where MCPServers say it themselves.
    pub(crate) fn with_pods(&self) -> Option<PodSidecars> {
        (self.injection_point == Point::Pod).then(|| PodSidecars {
            default_on: self.enable_client_registration.or(true),
            mode: self.mode(),
            registration: self.registration(),
        })
    }

    /// The node's folder with the socket of the Workload API, as the config file says.
    ///
    /// # Errors
    /// When the file can't be read or understood.
    pub(crate) fn socket_folder(&self) -> anyhow::Result<String> {
        Ok(self.sidecars()?.1.volumes.socket.path)
    }

    fn mode(&self) -> SidecarMode {
        match self.sidecar_mode {
            Mode::External => SidecarMode::External,
            Mode::Builtin => SidecarMode::Builtin,
        }
    }

    fn registration(&self) -> Registration {
        match self.registration {
            Registrar::Pod => Registration::Pod,
            Registrar::Operator => Registration::Operator,
        }
    }

    /// Settings of a webhook in `namespace`. The config file is read.
    ///
    /// # Errors
    /// When flags contradict each other, or the config file can't be read or understood.
    pub(crate) fn settings(&self, namespace: &str, plan: plan::Settings) -> anyhow::Result<WebhookSettings> {
        let (registration, mode) = (self.registration(), self.mode());
        if self.allow_admin_in_pods == Admin::True
            && (mode == SidecarMode::Builtin || registration == Registration::Operator)
        {
            bail!(
                "--allow-admin-in-pods needs --sidecar-mode=external and --registration=pod: nothing else has a use for an administrator's password in a pod"
            );
        }
        let (config_base, config) = self.sidecars()?;
        let policy = Policy {
            default_on: self.enable_client_registration.or(true),
            mode,
            registration,
            admin_in_pods: match self.allow_admin_in_pods {
                Admin::Legacy => AdminInPods::WhereLegacy,
                Admin::True => AdminInPods::Allowed,
                Admin::False => AdminInPods::Forbidden,
            },
            socket: match self.spire_socket {
                SocketSource::Hostpath => Socket::HostPath,
                SocketSource::Csi => Socket::Csi,
            },
            config,
        };
        Ok(WebhookSettings {
            address: SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.port),
            certificates: self.certificates(namespace)?,
            injection_point: match self.injection_point {
                Point::Mcpserver => InjectionPoint::Server,
                Point::Pod => InjectionPoint::Pod,
            },
            policy,
            config_base,
            config_file: self.config.clone(),
            strict_references: self.strict_references.or(false),
            access_reviews: match self.access_reviews {
                Reviews::Enforce => AccessReviews::Enforce,
                Reviews::Warn => AccessReviews::Warn,
            },
            plan,
        })
    }

    /// What flags say about the sidecars, and the same with what the config file says.
    fn sidecars(&self) -> anyhow::Result<(SidecarConfig, SidecarConfig)> {
        let mut base = SidecarConfig::default();
        base.images.builtin.clone_from(&self.sidecar_image);
        let Some(path) = &self.config else { return Ok((base.clone(), base)) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the config file {}", path.display()))?;
        let config = SidecarConfig::parse_over(base.clone(), &text)
            .with_context(|| format!("the config file {} is not valid", path.display()))?;
        Ok((base, config))
    }

    fn certificates(&self, namespace: &str) -> anyhow::Result<CertificateSource> {
        if !self.self_signed.or(false) {
            return Ok(CertificateSource::Files {
                certificate: self.webhook_cert_path.join(&self.webhook_cert_name),
                key: self.webhook_cert_path.join(&self.webhook_cert_key),
            });
        }
        if namespace.is_empty() {
            bail!(
                "--self-signed needs to know its own namespace: set --namespace or the variable POD_NAMESPACE"
            );
        }
        if self.ca_validity < self.certificate_validity {
            bail!("--ca-validity is shorter than --certificate-validity: no certificate outlives its CA");
        }
        Ok(CertificateSource::SelfSigned(SelfSigned {
            namespace: namespace.to_owned(),
            service: self.service_name.clone(),
            secret: self.secret_name.clone(),
            mutating_configuration: self.mutating_configuration.clone(),
            validating_configuration: self.validating_configuration.clone(),
            validity: self.certificate_validity,
            ca_validity: self.ca_validity,
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        flags: Flags,
    }

    fn settings(line: &str) -> Result<WebhookSettings, String> {
        let words = std::iter::once("webhook").chain(line.split(' ').filter(|word| !word.is_empty()));
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        cli.flags.settings("ns", plan::Settings::default()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_defaults_are_those_of_the_original_webhook() {
        let read = settings("").expect("settings");
        assert!(read.policy.default_on);
        assert_eq!(read.address.port(), 9443);
        let folder = PathBuf::from("/tmp/k8s-webhook-server/serving-certs");
        assert_eq!(
            read.certificates,
            CertificateSource::Files { certificate: folder.join("tls.crt"), key: folder.join("tls.key") }
        );
        assert_eq!(read.policy.mode, SidecarMode::External);
        assert_eq!(read.injection_point, InjectionPoint::Server);
    }

    #[test]
    fn the_defaults_of_a_self_signed_certificate_are_what_is_installed() {
        let installed = include_str!("../../../../../deploy/kustomize/webhook/self-signed/skep-webhook.yaml");
        let CertificateSource::SelfSigned(own) = settings("--self-signed").expect("settings").certificates
        else {
            panic!("not self-signed")
        };
        for (flag, value) in [
            ("service-name", own.service),
            ("secret-name", own.secret),
            ("mutating-configuration", own.mutating_configuration),
            ("validating-configuration", own.validating_configuration),
        ] {
            assert!(installed.contains(&format!("\"--{flag}={value}\"")), "--{flag}={value}");
        }
    }

    #[test]
    fn every_flag_is_honoured() {
        let read = settings(
            "--enable-client-registration=false --port=1 --injection-point=pod --sidecar-mode=builtin --sidecar-image=i --spire-socket=csi --registration=operator --allow-admin-in-pods=false --strict-references --access-reviews=warn",
        )
        .expect("settings");
        assert!(!read.policy.default_on && read.strict_references);
        assert_eq!(read.address.port(), 1);
        assert_eq!(read.injection_point, InjectionPoint::Pod);
        let policy = &read.policy;
        assert_eq!(
            (policy.mode, policy.registration, policy.admin_in_pods, policy.socket),
            (SidecarMode::Builtin, Registration::Operator, AdminInPods::Forbidden, Socket::Csi)
        );
        assert_eq!(policy.config.images.builtin, "i");
        assert_eq!(read.access_reviews, AccessReviews::Warn);
        let read = settings(
            "--webhook-cert-path=/c --webhook-cert-name=a --webhook-cert-key=b --allow-admin-in-pods",
        )
        .expect("settings");
        assert_eq!(read.policy.admin_in_pods, AdminInPods::Allowed);
        assert_eq!(
            read.certificates,
            CertificateSource::Files { certificate: "/c/a".into(), key: "/c/b".into() }
        );
        let read = settings("--self-signed --service-name=s --secret-name=t --mutating-configuration=m --validating-configuration=v --certificate-validity=30s --ca-validity=1h").expect("settings");
        let CertificateSource::SelfSigned(own) = read.certificates else { panic!("not self-signed") };
        assert_eq!(
            own,
            SelfSigned {
                namespace: "ns".to_owned(),
                service: "s".to_owned(),
                secret: "t".to_owned(),
                mutating_configuration: "m".to_owned(),
                validating_configuration: "v".to_owned(),
                validity: Duration::from_secs(30),
                ca_validity: Duration::from_secs(3600),
            }
        );
    }

    #[test]
    fn a_config_file_is_read_over_the_flags() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sidecars.yaml");
        std::fs::write(&file, "images:\n  spiffeHelper: helper:1\n").expect("written");
        let read = settings(&format!("--config={} --sidecar-image=i", file.display())).expect("settings");
        let images = &read.policy.config.images;
        assert_eq!((images.spiffe_helper.as_str(), images.builtin.as_str()), ("helper:1", "i"));
        assert_eq!(read.config_file.as_deref(), Some(file.as_path()));
        std::fs::write(&file, "images:\n  spifeHelper: helper:1\n").expect("written");
        let error = settings(&format!("--config={}", file.display())).expect_err("a typing error");
        assert!(error.contains("sidecars.yaml") && error.contains("spifeHelper"), "{error}");
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        for (line, wrong) in [
            ("--allow-admin-in-pods --sidecar-mode=builtin", "--sidecar-mode=external"),
            ("--allow-admin-in-pods --registration=operator", "--registration=pod"),
            ("--self-signed --ca-validity=1h", "--ca-validity"),
            ("--injection-point=deployment", "mcpserver"),
            ("--certificate-validity=90", "90d"),
            ("--port=70000", "70000"),
            ("--config=/nowhere/at/all.yaml", "/nowhere/at/all.yaml"),
        ] {
            let error = settings(line).expect_err(line);
            assert!(error.contains(wrong), "{line}: {error}");
        }
    }
}
