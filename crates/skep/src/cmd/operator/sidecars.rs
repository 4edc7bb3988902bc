//! The flags about how clients are registered from here.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use skep_api::address::Egress;
use skep_operator::settings::RegistrationSettings;

use crate::cmd::values::{Maybe, switch};

/// Flags about the sidecars of MCP servers.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Sidecars")]
pub(super) struct SidecarFlags {
    /// Keycloak, such as `https://keycloak.example.com`. With it the operator registers the clients of servers
    /// whose sidecars leave that to it (`--registration=operator` of the webhook).
    #[arg(long, value_name = "URL", env = "SKEP_KEYCLOAK_URL", default_value = "")]
    keycloak_url: String,
    /// Realm that clients are registered in.
    #[arg(long, value_name = "NAME", env = "SKEP_KEYCLOAK_REALM", default_value = "")]
    keycloak_realm: String,
    /// Folder with the login: files client-id and client-secret of a service account with the role
    /// manage-clients of realm-management, or username and password of an administrator.
    #[arg(long, value_name = "FOLDER", env = "SKEP_KEYCLOAK_CREDENTIALS", default_value = "")]
    keycloak_credentials: String,
    /// File with CA certificates for Keycloak, besides the machine's own.
    #[arg(long, value_name = "FILE", env = "SKEP_KEYCLOAK_CA", default_value = "")]
    keycloak_ca: String,
    /// Make a scope for each client that adds it to the audience of tokens, and make that a default of the realm.
    /// Every client that is made later has it then, so that its tokens are good for every MCP server, and grow
    /// with each of them.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    keycloak_audience_scope: Maybe<bool>,
    /// Trust domain of the SPIFFE IDs that MCP servers get, such as example.org.
    #[arg(long, value_name = "DOMAIN", env = "SKEP_SPIFFE_TRUST_DOMAIN", default_value = "")]
    spiffe_trust_domain: String,
}

impl SidecarFlags {
    /// How clients are registered; none when they are not. `egress` says what is never called.
    ///
    /// # Errors
    /// When something is missing or can't be what it should be.
    pub(super) fn registration(&self, egress: Egress) -> anyhow::Result<Option<RegistrationSettings>> {
        let all = [
            ("--keycloak-url", &self.keycloak_url),
            ("--keycloak-realm", &self.keycloak_realm),
            ("--keycloak-credentials", &self.keycloak_credentials),
            ("--spiffe-trust-domain", &self.spiffe_trust_domain),
        ];
        let missing: Vec<&str> =
            all.iter().filter(|(_, text)| text.trim().is_empty()).map(|(flag, _)| *flag).collect();
        if missing.len() == all.len() && self.keycloak_ca.trim().is_empty() {
            return Ok(None);
        }
        if !missing.is_empty() {
            bail!("to register clients, {} is missing too: set all of them or none", missing.join(" and "));
        }
        let [(_, url), (_, realm), (_, credentials), (_, trust_domain)] =
            all.map(|(flag, text)| (flag, text.trim()));
        let mut settings = RegistrationSettings::new(url, realm, PathBuf::from(credentials), trust_domain);
        settings.egress = egress;
        settings.audience_scope = self.keycloak_audience_scope.or(false);
        settings.ca =
            Some(PathBuf::from(self.keycloak_ca.trim())).filter(|path| !path.as_os_str().is_empty());
        settings.check().context("clients can't be registered like this")?;
        Ok(Some(settings))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use skep_operator::sidecars::default_helper_config;
    use skep_sidecar::helper::HelperConfig;

    #[test]
    fn what_the_operator_gives_the_helper_is_what_the_helper_reads() {
        for audience in ["https://id.example.com/realms/demo", "kagenti", "a\"b\\c${d}"] {
            let text = default_helper_config(audience);
            let read =
                HelperConfig::parse(&text, "helper.conf").unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(read.notes, Vec::<String>::new());
            assert!(read.daemon);
            let files = read.x509.expect("an X.509-SVID");
            let modes = [&files.certificate, &files.key, &files.bundle]
                .map(|file| (file.path.as_path(), format!("{:?}", file.mode)));
            assert_eq!(
                modes.each_ref().map(|(path, _)| *path),
                ["/opt/svid.pem", "/opt/svid_key.pem", "/opt/svid_bundle.pem"].map(Path::new)
            );
            assert_eq!(read.jwt_svids.len(), 1);
            assert_eq!(read.jwt_bundle.expect("bundles").path, Path::new("/opt/jwt_bundle.json"));
        }
    }
}
