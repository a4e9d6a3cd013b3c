//! What was taken back before its time, and what that says about a login. Pure.
//!
//! A connection is found again by its [`Credential`]: fingerprints of what its token said. They are
//! keyed by chance at the start of the process, so nobody can choose a name that another's
//! revocation hits.
//!
//! An entry is forgotten when every token that it is about has run out. A hub does not know how long
//! tokens of the auth service live, so it keeps entries for a time that the server names, and takes
//! no token of that service that is older. When there are more entries than it keeps, the oldest
//! goes, and with it all tokens that were issued before: their owners fetch new ones. So what is
//! forgotten refuses too much, never too little. Tokens of other issuers are not in the feed, and
//! nothing that is forgotten is about them.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    mem,
    num::NonZeroU64,
    time::Duration,
};

use thiserror::Error;

/// A subject or a session, as far as it must be told apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fingerprint(NonZeroU64);

/// A key, as far as it must be told apart. There are few.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyFingerprint(u32);

/// Takes fingerprints. Those of another one are not comparable.
#[derive(Clone, Debug)]
pub struct Fingerprints(RandomState);

impl Fingerprints {
    /// Takes fingerprints that this hasher makes.
    #[must_use]
    pub const fn new(hasher: RandomState) -> Self {
        Self(hasher)
    }

    /// Of a subject or a session.
    #[must_use]
    pub fn of(&self, text: &str) -> Fingerprint {
        Fingerprint(NonZeroU64::new(self.0.hash_one(text)).unwrap_or(NonZeroU64::MAX))
    }

    /// Of a key's id.
    #[must_use]
    pub fn of_key(&self, id: &str) -> KeyFingerprint {
        let [high, low] = [32, 0].map(|shift| (self.0.hash_one(id) >> shift) as u32);
        KeyFingerprint(high ^ low)
    }
}

/// What a login is known by, for as long as its connection lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Credential {
    /// The user.
    pub subject: Fingerprint,
    /// The session, if the token said one.
    pub session: Option<Fingerprint>,
    /// The user's generation when the token was issued. That of a token that says none is the
    /// highest, which no revocation is about.
    pub generation: u32,
    /// The key that signed the token.
    pub key: KeyFingerprint,
}

/// The login that somebody wants to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// What it will be known by.
    pub credential: Credential,
    /// When the token was issued, in seconds since 1970, if it may be in the feed: if it is one of
    /// the auth service.
    pub issued_at_s: Option<u64>,
}

/// Why a good token is not taken all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Refused {
    /// Its session or its user is revoked, or the user is banned. Another token of it is no better.
    #[error("the login is revoked")]
    Revoked,
    /// A newer token of the same user may be good: the key is revoked, or it cannot be known any
    /// more whether this token is.
    #[error("the token is of a time that is over")]
    Stale,
}

/// Something that was taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Revoked {
    /// A session.
    Session(Fingerprint),
    /// Tokens of a user with a generation below this.
    User {
        /// The user.
        subject: Fingerprint,
        /// The first one that is good again.
        generation: u32,
    },
    /// What a key has signed.
    Key(KeyFingerprint),
    /// Whatever a user has.
    Ban(Fingerprint),
}

/// Things that were taken back, each with the time, in milliseconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Notices {
    sessions: HashMap<Fingerprint, u64>,
    users: HashMap<Fingerprint, (u32, u64)>,
    keys: HashMap<KeyFingerprint, u64>,
    bans: HashMap<Fingerprint, u64>,
}

impl Notices {
    /// Takes one in.
    pub fn add(&mut self, revoked: Revoked, at_ms: u64) {
        match revoked {
            Revoked::Session(session) => {
                self.sessions.insert(session, at_ms);
            }
            Revoked::User { subject, generation } => {
                let (first_good, last_ms) = self.users.entry(subject).or_default();
                *first_good = generation.max(*first_good);
                *last_ms = at_ms.max(*last_ms);
            }
            Revoked::Key(key) => {
                self.keys.insert(key, at_ms);
            }
            Revoked::Ban(subject) => {
                self.bans.insert(subject, at_ms);
            }
        }
    }

    /// Why this login is over, if it is, and since when.
    #[must_use]
    pub fn about(&self, credential: &Credential) -> Option<(Refused, u64)> {
        let Credential { subject, session, generation, key } = credential;
        let of_user = self.users.get(subject).filter(|(first_good, _)| generation < first_good);
        let of_session = session.and_then(|session| self.sessions.get(&session));
        let revoked = of_session.or(of_user.map(|(_, at_ms)| at_ms)).or(self.bans.get(subject));
        let revoked = revoked.map(|at_ms| (Refused::Revoked, *at_ms));
        revoked.or(self.keys.get(key).map(|at_ms| (Refused::Stale, *at_ms)))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { sessions, users, keys, bans } = self;
        sessions.is_empty() && users.is_empty() && keys.is_empty() && bans.is_empty()
    }

    /// Takes one out, unless another of the kind came later.
    fn forget(&mut self, revoked: Revoked, at_ms: u64) {
        match revoked {
            Revoked::Session(session) if self.sessions.get(&session) == Some(&at_ms) => {
                self.sessions.remove(&session);
            }
            Revoked::User { subject, .. }
                if self.users.get(&subject).is_some_and(|(_, last_ms)| *last_ms == at_ms) =>
            {
                self.users.remove(&subject);
            }
            Revoked::Key(key) if self.keys.get(&key) == Some(&at_ms) => {
                self.keys.remove(&key);
            }
            Revoked::Session(_) | Revoked::User { .. } | Revoked::Key(_) | Revoked::Ban(_) => {}
        }
    }
}

/// Everything that is revoked now.
#[derive(Clone, Debug)]
pub struct Table {
    notices: Notices,
    /// What may be forgotten, the oldest first, with its time in milliseconds since 1970.
    ages: VecDeque<(Revoked, u64)>,
    /// No token is good that was issued up to then, in seconds since 1970.
    floor_s: Option<u64>,
    kept_s: u64,
    entries_max: usize,
    leeway_s: u64,
}

impl Table {
    /// A table that keeps so many entries for so long. Bans it keeps until they are lifted. The
    /// clocks of those who issue and revoke differ by at most `leeway`.
    #[must_use]
    pub fn new(kept: Duration, entries_max: usize, leeway: Duration) -> Self {
        Self {
            notices: Notices::default(),
            ages: VecDeque::new(),
            floor_s: None,
            kept_s: kept.as_secs(),
            entries_max,
            leeway_s: leeway.as_secs(),
        }
    }

    /// Takes one in.
    pub fn add(&mut self, revoked: Revoked, at_ms: u64, now_s: u64) {
        self.notices.add(revoked, at_ms);
        if !matches!(revoked, Revoked::Ban(_)) {
            self.ages.push_back((revoked, at_ms));
        }
        let is_over = |at_ms: u64| at_ms / 1000 + self.kept_s + self.leeway_s < now_s;
        while let Some((oldest, at_ms)) = self.ages.front().copied() {
            let is_over = is_over(at_ms);
            if !is_over && self.ages.len() <= self.entries_max {
                break;
            }
            if !is_over {
                // A clock that was ahead once must not refuse everybody until that time comes.
                let at_s = (at_ms / 1000).min(now_s);
                self.floor_s = self.floor_s.max(Some(at_s + self.leeway_s));
            }
            self.notices.forget(oldest, at_ms);
            self.ages.pop_front();
        }
    }

    /// These are the bans, and no others. Those of them that were not there before.
    pub fn set_bans(&mut self, bans: HashMap<Fingerprint, u64>) -> Notices {
        let before = mem::replace(&mut self.notices.bans, bans);
        let is_new = |(subject, _): &(&Fingerprint, &u64)| !before.contains_key(*subject);
        let bans = self.notices.bans.iter().filter(is_new).map(|(it, at_ms)| (*it, *at_ms));
        Notices { bans: bans.collect(), ..Notices::default() }
    }

    /// Takes a ban out.
    pub fn lift(&mut self, subject: Fingerprint) {
        self.notices.bans.remove(&subject);
    }

    /// Whether this login may be had at this time.
    ///
    /// # Errors
    /// When something of it is revoked, or may have been.
    pub fn check(&self, claim: &Claim, now_s: u64) -> Result<(), Refused> {
        if let Some((refused, _)) = self.notices.about(&claim.credential) {
            return Err(refused);
        }
        let Some(issued_at_s) = claim.issued_at_s else { return Ok(()) };
        let below_floor = self.floor_s.is_some_and(|floor_s| issued_at_s <= floor_s);
        let too_old = issued_at_s.saturating_add(self.kept_s) < now_s;
        if below_floor || too_old { Err(Refused::Stale) } else { Ok(()) }
    }

    /// How many entries it holds, bans not counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ages.len()
    }

    /// Whether it holds none, bans not counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ages.is_empty()
    }
}

#[cfg(test)]
mod tests;
