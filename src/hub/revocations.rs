//! What is revoked, as the edge and all shards know it, and the way by which it reaches connections.
//!
//! *Nobody slips through.* [`Revoker::revoke`] changes the register first and tells every shard
//! then. A shard lets a login in only after a look at the register, in one step with writing its
//! credential down, on its own thread; and it looks through these credentials when it is told. A look
//! that came before the change of the register came before the shard was told, so the login is among
//! those that are looked through. A look that came after it refuses. That a connection is let in
//! between two parts of a look-through changes nothing: its look came after the change.

use std::{
    collections::HashMap,
    hash::RandomState,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::mpsc;

use super::revoked::{
    Claim, Credential, Fingerprint, Fingerprints, Notices, Refused, Revoked, Table,
};
use crate::{
    clock,
    limits::{NOTICES_MAX, REVOCATIONS_HELD_MAX, TOKEN_LEEWAY},
};

/// What is revoked now.
#[derive(Debug)]
pub struct Register {
    fingerprints: Fingerprints,
    // Held for the time of a look or a change, never over an await.
    table: RwLock<Table>,
}

/// One revocation, in the words of the tokens that it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Revocation<'a> {
    /// Of a session.
    Session(&'a str),
    /// Of tokens of a user with a generation below this.
    User(&'a str, u32),
    /// Of what a key has signed.
    Key(&'a str),
    /// Of whatever a user has, until it is lifted.
    Ban(&'a str),
}

impl Register {
    /// An empty register, that keeps entries for so long. Older tokens of the auth service are not
    /// taken.
    #[must_use]
    pub fn new(kept: Duration) -> Self {
        let table = Table::new(kept, REVOCATIONS_HELD_MAX, TOKEN_LEEWAY);
        Self { fingerprints: Fingerprints::new(RandomState::new()), table: RwLock::new(table) }
    }

    /// What a login with such a token will be known by.
    #[must_use]
    pub fn credential(
        &self,
        subject: &str,
        session: Option<&str>,
        generation: Option<u32>,
        key_id: &str,
    ) -> Credential {
        Credential {
            subject: self.fingerprints.of(subject),
            session: session.map(|session| self.fingerprints.of(session)),
            generation: generation.unwrap_or(u32::MAX),
            key: self.fingerprints.of_key(key_id),
        }
    }

    /// Whether this login may be had now.
    ///
    /// # Errors
    /// When something of it is revoked, or may have been.
    pub fn check(&self, claim: &Claim) -> Result<(), Refused> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).check(claim, clock::unix_s())
    }

    /// A subject, as it is told from others.
    #[must_use]
    pub fn subject(&self, subject: &str) -> Fingerprint {
        self.fingerprints.of(subject)
    }

    /// Takes a ban back.
    pub fn lift(&self, subject: &str) {
        let subject = self.fingerprints.of(subject);
        self.table.write().unwrap_or_else(PoisonError::into_inner).lift(subject);
    }

    /// These are the bans, each with its time in milliseconds since 1970, and no others. What is to be
    /// told to the shards from now on.
    pub(super) fn set_bans(&self, bans: HashMap<Fingerprint, u64>) -> Notices {
        self.table.write().unwrap_or_else(PoisonError::into_inner).set_bans(bans)
    }

    /// Takes revocations in, each with its time in milliseconds since 1970. What is to be told to
    /// the shards from now on.
    pub(super) fn add<'a>(
        &self,
        revocations: impl Iterator<Item = (Revocation<'a>, u64)>,
    ) -> Notices {
        let mut notices = Notices::default();
        let now_s = clock::unix_s();
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        for (revocation, at_ms) in revocations {
            let revoked = match revocation {
                Revocation::Session(session) => Revoked::Session(self.fingerprints.of(session)),
                Revocation::User(subject, generation) => {
                    Revoked::User { subject: self.fingerprints.of(subject), generation }
                }
                Revocation::Key(id) => Revoked::Key(self.fingerprints.of_key(id)),
                Revocation::Ban(subject) => Revoked::Ban(self.fingerprints.of(subject)),
            };
            table.add(revoked, at_ms, now_s);
            notices.add(revoked, at_ms);
        }
        notices
    }
}

/// Revokes, for all shards of the process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Revoker {
    register: Arc<Register>,
    shards: Arc<[mpsc::Sender<Arc<Notices>>]>,
}

/// Where a shard is told of revocations.
pub type NoticesMailbox = mpsc::Receiver<Arc<Notices>>;

impl Revoker {
    /// For so many shards, with the mailbox of each.
    #[must_use]
    pub fn new(register: Arc<Register>, shards: usize) -> (Self, Vec<NoticesMailbox>) {
        let (shards, mailboxes): (Vec<_>, _) =
            (0..shards).map(|_| mpsc::channel(NOTICES_MAX)).unzip();
        (Self { register, shards: shards.into() }, mailboxes)
    }

    /// What is revoked now.
    #[must_use]
    pub const fn register(&self) -> &Arc<Register> {
        &self.register
    }

    /// Takes revocations in, each with its time in milliseconds since 1970, and tells every shard.
    /// From here on no login passes that they are about; those that there are end with their
    /// shard's next turns. Waits while a shard has too many to look at.
    pub async fn revoke<'a>(
        &self,
        revocations: impl Iterator<Item = (Revocation<'a>, u64)> + Send,
    ) {
        self.tell(self.register.add(revocations)).await;
    }

    /// These are the bans, each with its time in milliseconds since 1970, and no others. The rest is as
    /// with [`Revoker::revoke`].
    pub async fn set_bans(&self, bans: HashMap<Fingerprint, u64>) {
        self.tell(self.register.set_bans(bans)).await;
    }

    async fn tell(&self, notices: Notices) {
        if notices.is_empty() {
            return;
        }
        let notices = Arc::new(notices);
        for shard in &*self.shards {
            // An error means that the shard is gone, and its connections with it.
            let _ = shard.send(Arc::clone(&notices)).await;
        }
    }
}
