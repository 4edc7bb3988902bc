//! CA bundles: a key of a ConfigMap becomes a file in the proxy's pod.

use skep_api::crd::reference::CaBundleSource;
use skep_api::names::{CA_DIR, is_data_key, is_dns_subdomain};

use super::findings::Findings;
use super::{FileSource, KeySource};

const INVALID: &str = "CABundleRefInvalid";

/// A CA bundle that is referred to.
pub(super) struct CaBundle {
    pub(super) file: FileSource,
    pub(super) state: CaBundleState,
}

/// What is known of a bundle's content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CaBundleState {
    Valid,
    /// It holds no certificate, or its name can't be one.
    Invalid,
    NotFound,
}

/// Judges a reference to a bundle. `None` when there is none.
pub(super) fn plan(
    source: Option<&CaBundleSource>,
    path: &str,
    findings: &mut Findings<'_>,
) -> Option<CaBundle> {
    let reference = source.and_then(|source| source.config_map_ref.as_ref())?;
    let (map, key) = (&reference.name, reference.key.as_deref().unwrap_or("ca.crt"));
    let state = if !is_dns_subdomain(map) || !is_data_key(key) {
        let message = format!(
            "No ConfigMap can have the name `{}` and the key `{}`.",
            map.escape_debug(),
            key.escape_debug()
        );
        findings.error(path, INVALID, message);
        CaBundleState::Invalid
    } else {
        match findings.world.config_maps.get(map).map(|data| data.get(key)) {
            None => {
                findings.missing_detail(path, "CABundleRefNotFound", &format!("The ConfigMap `{map}`"));
                CaBundleState::NotFound
            }
            Some(None) => {
                let what = format!("The key `{key}` of the ConfigMap `{map}`");
                findings.missing_detail(path, "CABundleRefNotFound", &what);
                CaBundleState::NotFound
            }
            Some(Some(text)) if !text.contains("-----BEGIN CERTIFICATE-----") => {
                let message = format!("`{key}` of the ConfigMap `{map}` holds no PEM certificate.");
                findings.error(path, INVALID, message);
                CaBundleState::Invalid
            }
            Some(Some(_)) => CaBundleState::Valid,
        }
    };
    let file = FileSource {
        path: format!("{CA_DIR}/{map}/{key}"),
        source: KeySource::ConfigMap { name: map.clone(), key: key.to_owned() },
    };
    Some(CaBundle { file, state })
}
