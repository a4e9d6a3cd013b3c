//! The streams of a cluster: made once, and from then on as they were made.
//!
//! How many logs there are decides where each channel's is, so it is written down in every stream when
//! it is made. Streams are made one after the other, and each in one step, so whoever is interrupted or
//! comes at the same time goes on where the other one stopped.

use serde_json::{Value, json};
use thiserror::Error;

use super::{
    api::{Api, ApiError},
    subject::Subjects,
};
use crate::limits::NATS_DUPLICATE_WINDOW;

/// What is written down in each stream: how many logs the cluster has.
const LOGS: &str = "hubbub_logs";
/// Copies of everything in a cluster, and with a single server.
const REPLICAS: u64 = 3;
const REPLICAS_SINGLE: u64 = 1;

/// Why the streams cannot be used.
#[derive(Debug, Error)]
pub enum StreamsError {
    /// The cluster was made with another number of logs, and keeps it.
    #[error("the cluster was made with {made} logs, and the configuration says {configured}")]
    Logs {
        /// In the cluster.
        made: String,
        /// In the configuration.
        configured: usize,
    },
    /// Somebody changed a stream.
    #[error("stream {stream} has {setting} = {found} where {made} is needed")]
    Setting {
        /// The stream.
        stream: String,
        /// NATS's name of the setting.
        setting: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        made: String,
    },
    /// JetStream says no.
    #[error("stream {stream} cannot be used: {reason}")]
    Refused {
        /// The stream.
        stream: String,
        /// Its words.
        reason: String,
    },
}

/// How the streams of a cluster are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan<'p> {
    pub(super) subjects: &'p Subjects,
    /// How many logs.
    pub(super) logs: usize,
    /// Whether there is one server only.
    pub(super) single: bool,
}

impl Plan<'_> {
    /// Every stream with its settings, the one that says how many logs there are first.
    pub(super) fn streams(&self) -> Vec<(String, Value)> {
        let subjects = self.subjects;
        let records = self.settings(&subjects.records_stream(), &subjects.records(), true);
        let records = with_live(records, &subjects.records(), &subjects.live_records());
        let mut accounts = self.settings(&subjects.accounts_stream(), &subjects.accounts(), true);
        // The news that a row is gone is forgotten some time later.
        accounts["allow_msg_ttl"] = true.into();
        let logs = (0..self.logs).map(|shelf| {
            let all = subjects.logs(shelf);
            let settings = self.settings(&subjects.log_stream(shelf), &all, false);
            with_live(settings, &all, &subjects.live_logs(shelf))
        });
        let all = [records, accounts].into_iter().chain(logs);
        all.map(|settings| (settings["name"].as_str().unwrap_or_default().to_owned(), settings))
            .collect()
    }

    fn settings(&self, stream: &str, subjects: &str, last_only: bool) -> Value {
        json!({
            "name": stream,
            "subjects": [subjects],
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "num_replicas": if self.single { REPLICAS_SINGLE } else { REPLICAS },
            // A log has no bound of its own: what it dropped by itself would begin its numbers anew.
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msgs_per_subject": if last_only { 1 } else { -1 },
            "max_msg_size": -1,
            "deny_delete": true,
            "deny_purge": false,
            "allow_direct": true,
            "allow_atomic": true,
            "duplicate_window": NATS_DUPLICATE_WINDOW.as_nanos() as u64,
            "metadata": { LOGS: self.logs.to_string() },
        })
    }
}

fn with_live(mut settings: Value, subjects: &str, live: &str) -> Value {
    settings["republish"] = json!({ "src": subjects, "dest": live });
    settings
}

/// Makes the streams that are missing, and checks the others.
pub(super) async fn make(api: &Api, plan: Plan<'_>) -> Result<(), StreamsError> {
    for (stream, settings) in plan.streams() {
        if inspect(api, plan, &stream, &settings).await? {
            continue;
        }
        match api.create_stream(&stream, &settings).await {
            Ok(_) => {}
            // Another node may have been quicker, with other settings.
            Err(error) => {
                if !inspect(api, plan, &stream, &settings).await? {
                    return Err(refused(&stream, &error));
                }
            }
        }
    }
    Ok(())
}

/// Whether there is such a stream, which is as it should be.
async fn inspect(
    api: &Api,
    plan: Plan<'_>,
    stream: &str,
    settings: &Value,
) -> Result<bool, StreamsError> {
    let info = api.stream(stream).await.map_err(|error| refused(stream, &error))?;
    let Some(info) = info else { return Ok(false) };
    compare(plan.logs, stream, settings, &info.config)?;
    Ok(true)
}

fn refused(stream: &str, error: &ApiError) -> StreamsError {
    StreamsError::Refused { stream: stream.to_owned(), reason: error.to_string() }
}

/// Compares what matters. What a server leaves out has its zero.
pub(super) fn compare(
    logs: usize,
    stream: &str,
    made: &Value,
    found: &Value,
) -> Result<(), StreamsError> {
    let found_logs = found["metadata"][LOGS].as_str().unwrap_or("none");
    if found_logs != logs.to_string() {
        return Err(StreamsError::Logs { made: found_logs.to_owned(), configured: logs });
    }
    const SETTINGS: &[&str] = &[
        "subjects",
        "retention",
        "storage",
        "discard",
        "num_replicas",
        "max_msgs",
        "max_bytes",
        "max_age",
        "max_msgs_per_subject",
        "max_msg_size",
        "deny_delete",
        "allow_direct",
        "allow_atomic",
        "allow_msg_ttl",
        "republish",
        "persist_mode",
        "sealed",
        "no_ack",
        "mirror",
        "sources",
    ];
    for setting in SETTINGS {
        let (found, made) = (&found[setting], &made[setting]);
        let is_zero = |value: &Value| {
            value.is_null() || *value == false || *value == 0 || *value == "" || *value == "default"
        };
        if found != made && !(is_zero(found) && is_zero(made)) {
            return Err(StreamsError::Setting {
                stream: stream.to_owned(),
                setting,
                found: found.to_string(),
                made: made.to_string(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_somebody_changed_is_named() {
        let subjects = Subjects::new("h");
        let plan = Plan { subjects: &subjects, logs: 4, single: false };
        for (stream, made) in plan.streams() {
            compare(4, &stream, &made, &made).unwrap();
            for (setting, value) in [
                ("max_age", json!(1)),
                ("deny_delete", json!(false)),
                ("num_replicas", json!(1)),
                ("persist_mode", json!("async")),
                ("discard", json!("old")),
            ] {
                let mut found = made.clone();
                found[setting] = value;
                let error = compare(4, &stream, &made, &found).unwrap_err();
                let StreamsError::Setting { setting: named, .. } = error else { panic!("{error}") };
                assert_eq!(named, setting);
            }
            let error = compare(5, &stream, &made, &made).unwrap_err();
            assert!(matches!(error, StreamsError::Logs { made, .. } if made == "4"));
        }
    }
}
