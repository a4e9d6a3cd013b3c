//! What became of logins, sessions and keys, among the process's metrics: read when the page is asked
//! for.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use crate::{
    auth::stats::Stats,
    metrics::{
        Metrics,
        tally::{Counter, Gauge},
    },
};

/// Adds what the auth service counts.
pub(super) fn register(metrics: &mut Metrics, stats: Arc<Stats>) {
    metrics
        .register_others(|registry| registry.register_collector(Box::new(AccountCounters(stats))));
}

#[derive(Debug)]
struct AccountCounters(Arc<Stats>);

impl Collector for AccountCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = &*self.0;
        let counters: [(&str, &str, &Counter); 14] = [
            ("auth_logins", "Logins by the right password", &stats.logins),
            ("auth_logins_refused", "Logins with wrong credentials", &stats.logins_refused),
            ("auth_registrations", "Accounts made", &stats.registrations),
            ("auth_passwords_changed", "Passwords changed", &stats.passwords_changed),
            ("auth_refreshes", "Refresh tokens traded", &stats.refreshes),
            ("auth_refreshes_refused", "Refresh tokens refused", &stats.refreshes_refused),
            ("auth_replays", "Refresh tokens that were used up already", &stats.replays),
            ("auth_logouts", "Sessions ended by their own token", &stats.logouts),
            ("auth_limited_by_address", "Too many from one address", &stats.limited_by_address),
            ("auth_limited_by_account", "Too many for one user name", &stats.limited_by_account),
            ("auth_requests_overloaded", "Requests that found no room", &stats.overloaded),
            ("auth_requests_failed", "Requests that the auth service failed", &stats.failed),
            ("auth_housekeeping_failed", "Housekeeping that failed", &stats.housekeeping_failed),
            ("auth_rehashes", "Hashes made anew at another cost", &stats.rehashes),
        ];
        for (name, help, counter) in counters {
            let counter = ConstCounter::new(counter.get());
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        let gauges: [(&str, &str, &Gauge); 2] = [
            ("auth_sessions", "Sessions in the store", &stats.sessions),
            ("auth_keys", "Keys that are published", &stats.keys),
        ];
        for (name, help, gauge) in gauges {
            let gauge = ConstGauge::new(gauge.get());
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;

    use super::*;
    use crate::auth::{Auth, Settings, password::Cost};

    #[tokio::test]
    async fn the_page_has_what_became_of_a_login_and_nobodys_name() {
        let dir = tempfile::tempdir().unwrap();
        let cost = Cost { memory: ByteSize::kib(64), passes: 1, lanes: 1 };
        let settings = Settings { workers_max: 1, cost, ..Settings::default() };
        let auth = Auth::start(settings, dir.path(), || {}).unwrap();
        let mut metrics = Metrics::default();
        register(&mut metrics, auth.stats());
        let here = std::net::IpAddr::from([127, 0, 0, 1]);
        let password = || "correct horse battery".to_owned();
        auth.register("anna", password(), None, here, 1_800_000_000).await.unwrap();
        auth.log_in("anna", password(), here, 1_800_000_000).await.unwrap();
        auth.log_in("bert", password(), here, 1_800_000_000).await.unwrap_err();
        let page = metrics.to_text();
        for line in [
            "hubbub_auth_registrations_total 1",
            "hubbub_auth_logins_total 1",
            "hubbub_auth_logins_refused_total 1",
            "hubbub_auth_replays_total 0",
        ] {
            assert!(page.lines().any(|one| one == line), "{line}\n{page}");
        }
        assert!(!page.contains("anna") && !page.contains("bert"));
    }
}
