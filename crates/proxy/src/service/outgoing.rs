//! Where outgoing credentials come from, over changes of the configuration.

use std::sync::Arc;

use skep_auth::aws::AwsSts;
use skep_auth::exchange::{ExchangeObserver, Exchanger};

use super::{BuildError, Current, Shared};
use crate::config::{OutgoingSettings, ProxyConfig};
use crate::metrics::ProxyMetricsHandle;
use crate::stages::outgoing::Outgoing;

/// What was got under the old configuration is kept as long as nothing but the proxy's own secret has
/// changed: a rotation costs no caller a new exchange.
pub(super) fn outgoing(
    config: &ProxyConfig,
    shared: &Shared,
    metrics: &ProxyMetricsHandle,
    current: &Current,
) -> Result<Outgoing, BuildError> {
    let observer = || Arc::new(metrics.clone()) as Arc<dyn ExchangeObserver>;
    match &config.outgoing {
        OutgoingSettings::Fixed => Ok(Outgoing::Fixed),
        OutgoingSettings::Exchange { settings, header } => {
            let header = header.clone();
            if let Outgoing::Exchange { exchanger, .. } = &current.outgoing
                && exchanger.renew(settings).map_err(BuildError::Exchange)?
            {
                return Ok(Outgoing::Exchange { exchanger: Arc::clone(exchanger), header });
            }
            if settings.token_url.scheme() == "http" && !config.egress.loopback {
                tracing::warn!(
                    proxy = config.name,
                    "the token endpoint is plain http: tokens and the client secret can be read on the way"
                );
            }
            let (clock, rng) = (Arc::clone(&shared.clock), Arc::clone(&shared.rng));
            let exchanger =
                Exchanger::new((**settings).clone(), clock, rng, observer()).map_err(BuildError::Exchange)?;
            Ok(Outgoing::Exchange { exchanger, header })
        }
        OutgoingSettings::Aws(settings) => {
            if let Outgoing::Aws(sts) = &current.outgoing
                && sts.same(settings)
            {
                return Ok(Outgoing::Aws(Arc::clone(sts)));
            }
            let sts = AwsSts::new((**settings).clone(), Arc::clone(&shared.clock), observer())
                .map_err(BuildError::Aws)?;
            Ok(Outgoing::Aws(sts))
        }
    }
}
