//! Every name that NATS sees: streams, subjects, headers. No other file makes one.
//!
//! All begin with the cluster's prefix, so several clusters may share an account. For `hubbub`:
//!
//! | stream | subjects | holds |
//! |---|---|---|
//! | `hubbub_MSG0` … | `hubbub.msg.0.<channel>` | the logs of channels, each in the stream of its number modulo the count |
//! | `hubbub_RECORDS` | `hubbub.rec.<table>.<key>` | the records, the last of each subject |
//! | `hubbub_ACCOUNTS` | `hubbub.acct.<table>.<key>` | the rows of the account store, the last of each subject |
//!
//! What the first two commit comes to every node as `hubbub.live.…`. Nodes talk by `hubbub.node.…`.

use std::fmt::Write as _;

use crate::log::place::ChannelId;

/// The sequence that must be the subject's last for a publish to pass.
pub(super) const EXPECT_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence";
/// The sequence that must be the stream's last for a publish to pass.
pub(super) const EXPECT_STREAM: &str = "Nats-Expected-Last-Sequence";
/// Of several messages that are stored all or none: their common name, the place of each, and the end.
pub(super) const BATCH_ID: &str = "Nats-Batch-Id";
pub(super) const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
pub(super) const BATCH_COMMIT: &str = "Nats-Batch-Commit";
/// What a server says of a stored message: its subject, its sequence, and in a copy that it told of the
/// sequence before on the same subject.
pub(super) const SUBJECT: &str = "Nats-Subject";
pub(super) const SEQUENCE: &str = "Nats-Sequence";
pub(super) const LAST_SEQUENCE: &str = "Nats-Last-Sequence";
/// In each message of a page: how many come behind it.
pub(super) const PENDING: &str = "Nats-Num-Pending";
/// How long a server keeps a message.
pub(super) const TTL: &str = "Nats-TTL";
/// Ours: the record is removed.
pub(super) const REMOVED: &str = "Hubbub-Removed";
/// Ours: from which entries of which channels' logs the record follows; see `settle`.
pub(super) const SETTLED: &str = "Hubbub-Settled";

/// Ours: the node that tells or asks.
pub(super) const NODE: &str = "Hubbub-Node";

/// The names of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Subjects {
    prefix: String,
}

impl Subjects {
    /// Those that begin with this prefix, which has letters, digits, `-` and `_` only.
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn log_stream(&self, shelf: usize) -> String {
        format!("{}_MSG{shelf}", self.prefix)
    }

    pub(super) fn records_stream(&self) -> String {
        format!("{}_RECORDS", self.prefix)
    }

    pub(super) fn accounts_stream(&self) -> String {
        format!("{}_ACCOUNTS", self.prefix)
    }

    /// All subjects of one log stream.
    pub(super) fn logs(&self, shelf: usize) -> String {
        format!("{}.msg.{shelf}.>", self.prefix)
    }

    /// The log of a channel.
    pub(super) fn log(&self, shelf: usize, channel: ChannelId) -> String {
        format!("{}.msg.{shelf}.{}", self.prefix, channel.0)
    }

    /// Where what a log stream commits is told.
    pub(super) fn live_logs(&self, shelf: usize) -> String {
        format!("{}.live.msg.{shelf}.>", self.prefix)
    }

    /// The channel of such a subject, or of a log.
    pub(super) fn channel_of(subject: &str) -> Option<ChannelId> {
        subject.rsplit_once('.')?.1.parse().ok().map(ChannelId)
    }

    /// All subjects of the records.
    pub(super) fn records(&self) -> String {
        format!("{}.rec.>", self.prefix)
    }

    /// Where what the stream of records commits is told.
    pub(super) fn live_records(&self) -> String {
        format!("{}.live.rec.>", self.prefix)
    }

    /// One record, in the table of this name.
    pub(super) fn record(&self, table: &str, key: &str) -> String {
        format!("{}.rec.{table}.{}", self.prefix, escape(key))
    }

    /// The table and the key of such a subject, or of the live one.
    pub(super) fn record_of<'s>(&self, subject: &'s str) -> Option<(&'s str, String)> {
        let rest = subject.strip_prefix(&self.prefix)?;
        let rest = rest.strip_prefix(".live").unwrap_or(rest);
        let (table, key) = rest.strip_prefix(".rec.")?.split_once('.')?;
        Some((table, unescape(key)?))
    }

    /// All subjects of the accounts.
    pub(super) fn accounts(&self) -> String {
        format!("{}.acct.>", self.prefix)
    }

    /// One row of the account store.
    pub(super) fn account(&self, table: &str, key: &str) -> String {
        format!("{}.acct.{table}.{}", self.prefix, escape(key))
    }

    /// The table and the key of such a subject.
    pub(super) fn account_of<'s>(&self, subject: &'s str) -> Option<(&'s str, String)> {
        let rest = subject.strip_prefix(&self.prefix)?.strip_prefix(".acct.")?;
        let (table, key) = rest.split_once('.')?;
        Some((table, unescape(key)?))
    }

    /// Where one node is told something, and all are.
    pub(super) fn node(&self, node: crate::engine::bus::NodeId) -> String {
        format!("{}.node.{node}", self.prefix)
    }

    pub(super) fn nodes(&self) -> String {
        format!("{}.node.all", self.prefix)
    }

    /// Where nodes tell how far each stream is.
    pub(super) fn digests(&self) -> String {
        format!("{}.digest", self.prefix)
    }
}

/// A key as one token of a subject: what is not a letter, a digit, `-` or `_` becomes `=` and two
/// hexadecimal digits. The empty key is `=`.
fn escape(key: &str) -> String {
    if key.is_empty() {
        return "=".to_owned();
    }
    let mut token = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) {
            token.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(token, "={byte:02x}");
        }
    }
    token
}

fn unescape(token: &str) -> Option<String> {
    if token == "=" {
        return Some(String::new());
    }
    let mut key = Vec::with_capacity(token.len());
    let mut bytes = token.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'=' {
            let digits = [bytes.next()?, bytes.next()?];
            key.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            key.push(byte);
        }
    }
    String::from_utf8(key).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_key_is_one_token_and_comes_back(key in ".*") {
            let subjects = Subjects::new("h");
            let subject = subjects.record("users", &key);
            prop_assert_eq!(subject.split('.').count(), 4);
            prop_assert!(subject.bytes().all(|byte| byte.is_ascii_graphic() && !b"*>".contains(&byte)));
            prop_assert_eq!(subjects.record_of(&subject), Some(("users", key.clone())));
            let subject = subjects.account("accounts", &key);
            prop_assert_eq!(subjects.account_of(&subject), Some(("accounts", key)));
        }
    }
}
