//! What the auth service takes back before its time is over, as hubs are told: `GET /v1/revocations`.
//!
//! A feed of numbered entries. A hub asks again and again what came after the last number it knows.
//! An entry leaves the feed when every access token that it is about has run out by itself, so the
//! feed is short, and a hub that starts anew reads all of it. That of a key stays, since who has stolen
//! one makes tokens of any time; there are few.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One thing that was taken back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Revocation {
    /// Its place in the feed: 1, 2, 3, …
    pub number: u64,
    /// When it was revoked, in milliseconds since 1970.
    pub revoked_at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: Revoked,
}

/// What was revoked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "revoked", rename_all = "lowercase")]
pub enum Revoked {
    /// One session: tokens with this `sid`.
    Session {
        /// The session's id.
        session: String,
    },
    /// A user's sessions: tokens with this `sub` and a `gen` below this.
    User {
        /// The user's subject.
        subject: String,
        /// The first generation that is good again.
        generation: u32,
    },
    /// A key: tokens with this `kid`.
    Key {
        /// The key's id.
        key: String,
    },
}

/// A part of the feed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = RevocationPage)]
pub struct Page {
    /// In ascending order of their numbers.
    pub revocations: Vec<Revocation>,
    /// The newest number of the whole feed; what is asked for next is what comes after the last of
    /// `revocations`, or after this if there are none.
    pub last: u64,
}
