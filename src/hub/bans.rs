//! Users who may not come in here, whoever issues their tokens, until the operator says otherwise.
//!
//! One record for each user who was ever banned, beside those of the directory: the user's number →
//! since when, or that it is lifted, since records are never removed. All of them are read at the
//! start. A ban is written first and takes effect then, so none that was answered is ever forgotten.
//!
//! Where there are other nodes, they are told that something has changed, and read all of them again;
//! and every node does so from time to time, as what it is told may get lost.

use std::{collections::HashMap, mem::replace, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::{
    sync::{Mutex, Notify},
    time::{sleep, timeout},
};

use super::{
    cluster,
    directory::{Directory, DirectoryError},
    revocations::{Revocation, Revoker},
    revoked::Fingerprint,
};
use crate::{
    engine::{Engine, Expect, RecordError, Table, Versioned},
    limits::{BAN_ATTEMPTS_MAX, BANS_MAX, BANS_PER_PAGE_MAX, BANS_READ_INTERVAL, BANS_READ_PAUSE},
    log::place::UserId,
    wire::{cluster::changed::What, code::ErrorCode},
};

/// What the keys of the records begin with, among those of the users.
const PREFIX: &str = "ban:";

/// The bans of this server.
#[derive(Debug)]
pub struct Bans<E> {
    engine: Arc<E>,
    directory: Arc<Directory<E>>,
    revoker: Revoker,
    /// How many there are. Held while one is made or lifted, or all are read: two at a time would count
    /// wrongly. What other nodes do at the same time is counted later.
    count: Mutex<usize>,
    /// Rung when another node has changed something, or may have.
    changed: Notify,
}

/// A user who is banned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ban {
    /// Who.
    pub user: UserId,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
}

/// Why a ban is as it was.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BanError {
    /// Nobody has this number.
    #[error("there is no such user")]
    UnknownUser,
    /// There are as many as there may be.
    #[error("{BANS_MAX} users are banned, which is the most")]
    TooMany,
    /// Others kept changing the same record.
    #[error("too many tries collided")]
    Contended,
    /// The user cannot be looked up.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The records cannot be read or written.
    #[error("the records cannot be reached")]
    Records(#[from] RecordError),
}

impl From<&BanError> for ErrorCode {
    fn from(error: &BanError) -> Self {
        match error {
            BanError::UnknownUser => Self::NotFound,
            BanError::TooMany => Self::TooMany,
            BanError::Contended | BanError::Records(RecordError::Busy) => Self::Busy,
            BanError::Directory(error) => error.into(),
            BanError::Records(RecordError::Conflict | RecordError::TooLarge) => Self::Internal,
            BanError::Records(RecordError::StorageUnavailable) => Self::StorageUnavailable,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct BanRecord {
    subject: String,
    /// Since when. None: it is lifted.
    since_ms: Option<u64>,
}

impl<E: Engine> Bans<E> {
    /// Reads the bans that there are, and puts them in force.
    ///
    /// # Errors
    /// When the records cannot be read: to start without them would let everybody in.
    pub async fn load(
        engine: Arc<E>,
        directory: Arc<Directory<E>>,
        revoker: Revoker,
    ) -> Result<Self, BanError> {
        let changed = Notify::new();
        let bans = Self { engine, directory, revoker, count: Mutex::default(), changed };
        let there = bans.read().await?;
        *bans.count.lock().await = there.len();
        // Nobody is connected yet who had to be told; the shards, which do not run yet, least of all.
        let _ = bans.revoker.register().set_bans(there);
        Ok(bans)
    }

    /// Another node has changed something, or may have.
    pub fn have_changed(&self) {
        self.changed.notify_one();
    }

    /// Puts in force what other nodes change. Never ends.
    pub async fn follow(&self) {
        // Said once, not at every try.
        let mut is_failing = false;
        loop {
            // An error means that it is time to look without being told.
            let _ = timeout(BANS_READ_INTERVAL, self.changed.notified()).await;
            let read = self.read_again().await;
            let has_failed = replace(&mut is_failing, read.is_err());
            match read {
                Err(error) => {
                    if !has_failed {
                        tracing::warn!(%error, "the bans of other nodes cannot be read");
                    }
                    self.have_changed();
                }
                Ok(()) if has_failed => tracing::info!("the bans of other nodes are read again"),
                Ok(()) => {}
            }
            // Many are often changed one after the other.
            sleep(BANS_READ_PAUSE).await;
        }
    }

    async fn read_again(&self) -> Result<(), BanError> {
        let mut count = self.count.lock().await;
        let there = self.read().await?;
        *count = there.len();
        self.revoker.set_bans(there).await;
        Ok(())
    }

    /// Who is banned, and since when.
    async fn read(&self) -> Result<HashMap<Fingerprint, u64>, BanError> {
        let mut bans = HashMap::new();
        let mut after: Option<String> = None;
        loop {
            let read = self.engine.scan(Table::Users, PREFIX, after.as_deref(), BANS_PER_PAGE_MAX);
            let page = read.await?;
            for (_, found) in &page {
                let BanRecord { subject, since_ms } = parse(found)?;
                let subject = self.revoker.register().subject(&subject);
                bans.extend(since_ms.map(|since_ms| (subject, since_ms)));
            }
            match page.into_iter().next_back() {
                Some((last, _)) => after = Some(last),
                None => return Ok(bans),
            }
        }
    }

    /// Tells the other nodes, if there are any.
    fn tell_nodes(&self) {
        if let Some(bus) = self.engine.bus() {
            bus.cast(cluster::changed(What::Bans(true)));
        }
    }

    /// Bans a user: their connections end, and no token of theirs is taken. `now_ms` is in
    /// milliseconds since 1970. Who is banned already stays so since then.
    ///
    /// # Errors
    /// When there is no such user, or it cannot be written.
    pub async fn ban(&self, user: UserId, now_ms: u64) -> Result<Ban, BanError> {
        let mut count = self.count.lock().await;
        let subject = self.directory.subject(user).await?.ok_or(BanError::UnknownUser)?;
        let is_full = *count >= BANS_MAX;
        let before = self.write(user, |known| match known.and_then(|known| known.since_ms) {
            Some(_) => Ok(None),
            None if is_full => Err(BanError::TooMany),
            None => Ok(Some(BanRecord { subject: subject.clone(), since_ms: Some(now_ms) })),
        });
        let since_ms = before.await?.and_then(|before| before.since_ms);
        *count += usize::from(since_ms.is_none());
        self.tell_nodes();
        // Also of one that was there: whoever asks again may have reason to.
        self.revoker.revoke([(Revocation::Ban(&subject), now_ms)].into_iter()).await;
        Ok(Ban { user, since_ms: since_ms.unwrap_or(now_ms) })
    }

    /// Lifts a ban. One that there is not is lifted already.
    ///
    /// # Errors
    /// When there is no such user, or it cannot be written.
    pub async fn lift(&self, user: UserId) -> Result<(), BanError> {
        let mut count = self.count.lock().await;
        let subject = self.directory.subject(user).await?.ok_or(BanError::UnknownUser)?;
        let lifted = || BanRecord { subject: subject.clone(), since_ms: None };
        let is_banned = |known: &BanRecord| known.since_ms.is_some();
        let before =
            self.write(user, |known| Ok(known.filter(|it| is_banned(it)).map(|_| lifted())));
        if before.await?.as_ref().is_some_and(is_banned) {
            *count = count.saturating_sub(1);
            self.tell_nodes();
        }
        self.revoker.register().lift(&subject);
        Ok(())
    }

    /// Bans after this user, by number, at most [`BANS_PER_PAGE_MAX`].
    ///
    /// # Errors
    /// When the records cannot be read.
    pub async fn list(&self, after: Option<UserId>) -> Result<Vec<Ban>, BanError> {
        let mut after = after.map(key);
        let mut bans = Vec::new();
        // Those that are lifted are passed over.
        while bans.len() < BANS_PER_PAGE_MAX {
            let count_max = BANS_PER_PAGE_MAX - bans.len();
            let page = self.engine.scan(Table::Users, PREFIX, after.as_deref(), count_max).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, found) in &page {
                let number = key.strip_prefix(PREFIX).and_then(|number| number.parse().ok());
                let user = UserId(number.ok_or(DirectoryError::Damaged)?);
                let since_ms = parse(found)?.since_ms;
                bans.extend(since_ms.map(|since_ms| Ban { user, since_ms }));
            }
        }
        Ok(bans)
    }

    /// Writes the record that `change` makes of the one that there is, if it makes one. The one
    /// that there was.
    async fn write(
        &self,
        user: UserId,
        mut change: impl FnMut(Option<&BanRecord>) -> Result<Option<BanRecord>, BanError>,
    ) -> Result<Option<BanRecord>, BanError> {
        let key = key(user);
        for _ in 0..BAN_ATTEMPTS_MAX {
            let found = self.engine.get(Table::Users, &key).await?;
            let known = found.as_ref().map(parse).transpose()?;
            let Some(record) = change(known.as_ref())? else { return Ok(known) };
            let expect = match &found {
                None => Expect::Absent,
                Some(found) => Expect::Revision(found.revision),
            };
            let value = serde_json::to_vec(&record)
                .expect("numbers and strings always have a JSON form")
                .into();
            match self.engine.put(Table::Users, &key, value, expect).await {
                Ok(_) => return Ok(known),
                Err(RecordError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(BanError::Contended)
    }
}

/// The key of a user's record. Keys are in the order of their text, so numbers have one length.
fn key(user: UserId) -> String {
    format!("{PREFIX}{:010}", user.0)
}

fn parse(found: &Versioned) -> Result<BanRecord, BanError> {
    serde_json::from_slice(&found.value).map_err(|_| DirectoryError::Damaged.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        engine::memory::MemoryEngine,
        hub::{
            revocations::Register,
            revoked::{Claim, Refused},
        },
        limits::NOTICES_MAX,
    };

    const KEPT: Duration = Duration::from_secs(3_600);

    async fn load(engine: &MemoryEngine) -> (Bans<MemoryEngine>, Arc<Directory<MemoryEngine>>) {
        let engine = Arc::new(engine.clone());
        let directory = Arc::new(Directory::new(Arc::clone(&engine)));
        let (revoker, _) = Revoker::new(Arc::new(Register::new(KEPT)), 0);
        let bans = Bans::load(engine, Arc::clone(&directory), revoker).await.unwrap();
        (bans, directory)
    }

    fn check(bans: &Bans<MemoryEngine>, subject: &str) -> Result<(), Refused> {
        let register = bans.revoker.register();
        let credential = register.credential(subject, None, None, "key");
        register.check(&Claim { credential, issued_at_s: None })
    }

    #[tokio::test]
    async fn a_ban_outlives_a_restart_until_it_is_lifted() {
        let engine = MemoryEngine::default();
        let (bans, directory) = load(&engine).await;
        let anna = directory.user("issuer/anna", "Anna").await.unwrap();
        let bert = directory.user("issuer/bert", "Bert").await.unwrap();
        let ban = bans.ban(anna, 5).await.unwrap();
        assert_eq!(ban, Ban { user: anna, since_ms: 5 });
        assert_eq!(bans.ban(anna, 9).await.unwrap(), ban, "it is since then");
        assert_eq!(check(&bans, "issuer/anna"), Err(Refused::Revoked));
        assert_eq!(check(&bans, "issuer/bert"), Ok(()));

        let (bans, _) = load(&engine).await;
        assert_eq!(check(&bans, "issuer/anna"), Err(Refused::Revoked));
        assert_eq!(bans.list(None).await.unwrap(), [ban]);
        assert_eq!(bans.list(Some(anna)).await.unwrap(), []);
        assert_eq!(*bans.count.lock().await, 1);
        bans.lift(bert).await.unwrap();
        bans.lift(anna).await.unwrap();
        bans.lift(anna).await.unwrap();
        assert_eq!(*bans.count.lock().await, 0);
        assert_eq!(check(&bans, "issuer/anna"), Ok(()));
        assert_eq!(bans.list(None).await.unwrap(), []);

        let (bans, _) = load(&engine).await;
        assert_eq!(check(&bans, "issuer/anna"), Ok(()));
        bans.ban(anna, 11).await.unwrap();
        assert_eq!(bans.list(None).await.unwrap(), [Ban { user: anna, since_ms: 11 }]);
    }

    #[tokio::test]
    async fn what_another_node_bans_and_lifts_is_so_here_after_a_look() {
        let engine = MemoryEngine::default();
        let (here, directory) = load(&engine).await;
        let (there, _) = load(&engine.another_node()).await;
        let anna = directory.user("anna", "Anna").await.unwrap();
        let bert = directory.user("bert", "Bert").await.unwrap();
        there.ban(anna, 5).await.unwrap();
        here.ban(bert, 6).await.unwrap();
        assert_eq!(check(&here, "anna"), Ok(()));
        here.read_again().await.unwrap();
        assert_eq!(check(&here, "anna"), Err(Refused::Revoked));
        assert_eq!(check(&here, "bert"), Err(Refused::Revoked));
        assert_eq!(*here.count.lock().await, 2);

        there.lift(anna).await.unwrap();
        here.read_again().await.unwrap();
        assert_eq!(check(&here, "anna"), Ok(()));
        assert_eq!(check(&here, "bert"), Err(Refused::Revoked));
        assert_eq!(*here.count.lock().await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn whose_ban_on_another_node_was_not_told_is_banned_here_before_long() {
        let engine = MemoryEngine::default();
        let (here, directory) = load(&engine).await;
        let (there, _) = load(&engine.another_node()).await;
        let anna = directory.user("anna", "Anna").await.unwrap();
        let here = Arc::new(here);
        let follower = Arc::clone(&here);
        tokio::spawn(async move { follower.follow().await });
        engine.faults().fail_next_record(RecordError::StorageUnavailable);
        there.ban(anna, 5).await.unwrap();
        sleep(BANS_READ_INTERVAL + 3 * BANS_READ_PAUSE).await;
        assert_eq!(check(&here, "anna"), Err(Refused::Revoked));
    }

    #[tokio::test]
    async fn bans_are_in_force_before_a_shard_looks_at_its_mailbox() {
        let engine = MemoryEngine::default();
        let (bans, directory) = load(&engine).await;
        let anna = directory.user("anna", "Anna").await.unwrap();
        bans.ban(anna, 1).await.unwrap();

        let (revoker, _mailboxes) = Revoker::new(Arc::new(Register::new(KEPT)), 1);
        for number in 0..NOTICES_MAX {
            revoker.revoke([(Revocation::Ban("bert"), number as u64)].into_iter()).await;
        }
        let load = Bans::load(Arc::new(engine), directory, revoker);
        let loaded = tokio::time::timeout(Duration::from_secs(60), load).await;
        let bans = loaded.expect("it waits for no shard").unwrap();
        assert_eq!(check(&bans, "anna"), Err(Refused::Revoked));
    }

    #[tokio::test]
    async fn nobody_is_banned_who_is_not_there() {
        let engine = MemoryEngine::default();
        let (bans, directory) = load(&engine).await;
        assert_eq!(bans.ban(UserId(7), 1).await, Err(BanError::UnknownUser));
        assert_eq!(bans.lift(UserId(7)).await, Err(BanError::UnknownUser));
        let anna = directory.user("anna", "Anna").await.unwrap();
        *bans.count.lock().await = BANS_MAX;
        assert_eq!(bans.ban(anna, 1).await, Err(BanError::TooMany));
        assert_eq!(check(&bans, "anna"), Ok(()));
    }

    #[tokio::test]
    async fn many_bans_are_listed_by_number_page_by_page() {
        let engine = MemoryEngine::default();
        let (bans, directory) = load(&engine).await;
        let mut banned = Vec::new();
        for number in 0..BANS_PER_PAGE_MAX + 30 {
            let user = directory.user(&format!("user {number}"), "x").await.unwrap();
            bans.ban(user, 1).await.unwrap();
            banned.push(user);
        }
        // A page is full although some between are lifted.
        for user in banned.drain(3..13) {
            bans.lift(user).await.unwrap();
        }
        let first = bans.list(None).await.unwrap();
        assert_eq!(first.len(), BANS_PER_PAGE_MAX);
        let rest = bans.list(first.last().map(|ban| ban.user)).await.unwrap();
        let listed: Vec<_> = first.iter().chain(&rest).map(|ban| ban.user).collect();
        assert_eq!(listed, banned);
    }
}
