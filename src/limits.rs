//! Every bound in the program, in one place.
//!
//! [`Limits`] are the operator's (`[limits]` in `hubbub.toml`); the constants are ours. Each says
//! what happens when it is reached. Sizes are in bytes unless the name says otherwise.

#[path = "limits/cluster.rs"]
mod cluster;

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use cluster::*;

/// The bounds that an operator may set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest message from a logged-in client. Beyond it: close 1009.
    pub message_bytes_max: ByteSize,
    /// Largest message before login. Beyond it: close 1009.
    pub login_message_bytes_max: ByteSize,
    /// Largest head of an HTTP request. Beyond it: 431.
    pub request_head_bytes_max: ByteSize,
    /// Largest body of an HTTP request. Beyond it: 413.
    pub request_body_bytes_max: ByteSize,
    /// Open connections of the process, whatever they are used for. Beyond it: 503 and close. The
    /// allowed number of open files bounds it further.
    pub connections_max: u32,
    /// Channels that one connection may be subscribed to. Beyond it: `too_many`.
    pub subscriptions_per_connection_max: u32,
    /// Users of one channel whose presence is told by name. Beyond it: their number alone, and nothing
    /// of who is writing. 0: never by name.
    pub presence_users_max: u32,
    /// Commands about presence, typing and read markers that a user may give in a second, on all
    /// connections and over HTTP together. Beyond it, and the burst: `rate_limited`.
    pub ephemeral_per_second: u32,
    /// How many of these a user who has been quiet may give at once.
    pub ephemeral_burst: u32,
    /// Frames that wait for one connection, at most [`OUTBOX_BYTES_MAX`]. Beyond it: close 4008.
    pub outbox_bytes_max: ByteSize,
    /// From TCP accept to the end of the request head. Beyond it: 408 or close.
    #[serde(with = "humantime_serde")]
    pub request_head_timeout: Duration,
    /// From the handshake to a valid login. Beyond it: close 4501.
    #[serde(with = "humantime_serde")]
    pub authenticate_timeout: Duration,
    /// How long a frame may be unfinished. Beyond it: close 1008.
    #[serde(with = "humantime_serde")]
    pub frame_timeout: Duration,
    /// How long a connection may take none of its frames. Beyond it: close 4008.
    #[serde(with = "humantime_serde")]
    pub write_stall_timeout: Duration,
    /// Silence before a ping, give or take [`PING_JITTER_PERCENT`] by connection.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// From ping to pong. Beyond it: close 4002.
    #[serde(with = "humantime_serde")]
    pub pong_timeout: Duration,
    /// From SIGTERM to the end of the process. Beyond it: exit with what is durable.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: ByteSize::kib(64),
            login_message_bytes_max: ByteSize::kib(4),
            request_head_bytes_max: ByteSize::kib(16),
            request_body_bytes_max: ByteSize::kib(64),
            connections_max: 16_000,
            subscriptions_per_connection_max: 1_000,
            presence_users_max: 500,
            ephemeral_per_second: 5,
            ephemeral_burst: 20,
            outbox_bytes_max: ByteSize::mib(1),
            request_head_timeout: Duration::from_secs(5),
            authenticate_timeout: Duration::from_secs(10),
            frame_timeout: Duration::from_secs(30),
            write_stall_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Spread of ping intervals over connections, to either side, so that they do not ping together.
pub const PING_JITTER_PERCENT: u32 = 20;

/// Frames that cannot be decoded before a connection is closed with 4505.
pub const UNDECODABLE_FRAMES_MAX: u8 = 3;

/// Fragments of one message that carry nothing. Beyond it: close 1009. Those that carry something
/// are bounded by the message's bytes.
pub const EMPTY_FRAGMENTS_MAX: u32 = 256;

/// Bytes of a payload that is worth compressing. Below it: sent plain, even to who takes deflate. A
/// shorter one saves little, and takes as long.
pub const DEFLATE_BYTES_MIN: usize = 256;
/// Bytes that a thread keeps for compressed and inflated messages, each. A peak beyond it gives its
/// memory back with the next message.
pub const DEFLATE_SCRATCH_BYTES_KEPT: usize = 256 * 1024;
/// What the memory for an inflated message begins with. It doubles as the message comes out, up to
/// the bound of a message.
pub const INFLATE_STEP_BYTES: usize = 4 * 1024;
/// Final blocks within one compressed message, each of which makes the inflater begin anew. Beyond
/// it: close 1002.
pub const DEFLATE_FINAL_BLOCKS_MAX: u32 = 64;

/// Bytes that a compressed message may have, if inflated it may have so many. What does not compress
/// grows by an eighth at most, and a little. Beyond it: close 1009.
#[must_use]
pub const fn deflated_message_bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max.saturating_add(message_bytes_max / 8).saturating_add(64)
}

/// From our close frame to the end of the TCP connection, however the client behaves.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a drain looks whether it is over.
pub const DRAIN_CHECK_INTERVAL: Duration = Duration::from_millis(5);
/// Between the slices of connections that a node of a cluster sends to the other nodes when it drains.
pub const DRAIN_SLICE_INTERVAL: Duration = Duration::from_millis(100);
/// Clients that are asked to come back per second, when many are sent away at once.
pub const RECONNECTS_PER_SECOND: u32 = 500;
/// How long a login counts at most, whatever its token says.
pub const LOGIN_LIFETIME_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

/// Connections that the kernel holds ready while the accept loop is busy. Beyond it, a client's
/// connect is tried again by its own kernel, a second later.
pub const LISTEN_BACKLOG: u32 = 4_096;
/// Connections that are accepted before those that were accepted get a turn: all that the kernel
/// held ready. An accept is a small part of what a connection costs, and does not wait well.
pub const ACCEPTS_PER_TURN: u32 = LISTEN_BACKLOG;
/// What a drain keeps of its time for the end of threads and files.
pub const DRAIN_RESERVE: Duration = Duration::from_secs(1);
/// How often the hub's thread says that it has its turns.
pub const BEAT_INTERVAL: Duration = Duration::from_millis(500);
/// How long it may not say so. Beyond it: `/livez` fails.
pub const BEAT_AGE_MAX: Duration = Duration::from_secs(5);

/// Messages in one batch. What exceeds it waits for the next.
pub const BATCH_MESSAGES_MAX: usize = 256;
/// Record bytes in one batch, but for a single message larger than it.
pub const BATCH_BYTES_MAX: usize = 64 * 1024;

/// Drafts that wait in one channel while a batch is in flight. Beyond it: `busy`.
pub const DRAFTS_MAX: usize = 4_096;
/// Bytes of these drafts. Beyond it: `busy`.
pub const DRAFT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What `busy` hints at.
pub const BUSY_RETRY_AFTER: Duration = Duration::from_millis(500);

/// Bytes of recent batches that a channel keeps in memory for resumes. The oldest fall out.
pub const TAIL_BYTES_MAX: usize = 256 * 1024;
/// Publishes whose keys a channel keeps in memory. Older ones are found in the engine.
pub const KEY_WINDOW_MAX: usize = 10_000;

/// Messages between a position and the tail that a resume replays from the log. Beyond it: `gap`.
pub const REPLAY_MESSAGES_MAX: u64 = 1_000;
/// Bytes that a resume replays from the log. What lies between them and the tail: `gap`.
pub const REPLAY_BYTES_MAX: usize = 256 * 1024;
/// Bytes that one read of the log answers.
pub const READ_BYTES_MAX: usize = 64 * 1024;

/// Messages in one history page.
pub const HISTORY_MESSAGES_MAX: u32 = 200;
/// Messages in a history page when the client names no number.
pub const HISTORY_MESSAGES_DEFAULT: u32 = 50;
/// History commands of one connection that are not answered. Beyond it: `busy`.
pub const HISTORY_READS_PER_CONNECTION_MAX: u8 = 2;

/// User ids in one `users` command. Beyond it: `bad_request`.
pub const USERS_PER_LOOKUP_MAX: usize = 200;

/// Members of one channel. Beyond it: `too_many`. The channel holds them in memory while it is used,
/// if it is for members only.
pub const MEMBERS_MAX: usize = 100_000;
/// How often those who asked hear at most who came to a channel and who went. What changes sooner is
/// told together.
pub const PRESENCE_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// How often they hear at most who is writing. Who says so sooner is told of together.
pub const TYPING_INTERVAL_MIN: Duration = Duration::from_millis(250);
/// Users that one such event tells of. Beyond it: their next one may.
pub const TYPING_USERS_MAX: usize = 200;
/// Users of whom one message to other nodes tells, about 50 KiB. Beyond it: the next one does.
pub const PRESENCE_TOLD_MAX: usize = 4_096;
/// Pause between two parts of what a node is told that asked for all who are there: some 80,000 users a
/// second from each shard.
pub const PRESENCE_ROUND_PAUSE: Duration = Duration::from_millis(50);
/// Bytes that one shard keeps of who is in its channels on other nodes. Beyond it: who comes there is not
/// counted here, and a metric says so.
pub const PRESENCE_ELSEWHERE_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Shards of other nodes that a node listens to. Beyond it: not heard.
pub const TELLERS_MAX: usize = 4_096;
/// What [`Limits::presence_users_max`] may be at most. Beyond it: the server does not start.
pub const PRESENCE_USERS_MAX: u32 = 10_000;
/// Users whose commands of late are counted for that. Beyond it who was quiet for longest begins anew:
/// at most 16 MiB.
pub const ALLOWANCES_MAX: usize = 65_536;
/// Channels or members in one page of a list.
pub const LISTED_MAX: u32 = 200;
/// Channels or members in a page of a list when the client names no number.
pub const LISTED_DEFAULT: u32 = 50;
/// Records that are read for one page of a list whose filter leaves some out. The page may then be
/// short, and says where the next begins.
pub const LIST_SCAN_MAX: usize = 1_000;
/// Records that are read at once where all of a kind are.
pub const SCAN_STEP: usize = 1_000;
/// Users of one name that a search answers.
pub const USERS_FOUND_MAX: usize = 50;
/// Calls from the edge that one shard has not answered. Beyond it: `busy`.
pub const CALLS_MAX: usize = 8_192;
/// Calls that wait to go to one shard together, which they do as soon as no other is ready. Beyond it:
/// `busy`.
pub const CALLS_GATHERED_MAX: usize = 1_024;
/// How long the edge or a connection waits for the answer to a call. Beyond it: `busy`, and a retry
/// tells what became of it.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of records in a page of history over HTTP. Beyond it: the page ends, with at least one record.
pub const HISTORY_PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of an `Idempotency-Key`. Beyond it: `bad_request`.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 64;
/// Webhooks of one channel. Beyond it: `too_many`.
pub const WEBHOOKS_PER_CHANNEL_MAX: usize = 32;
/// Pause before the removal of a deleted channel's data that failed is tried again.
pub const DELETION_PAUSE: Duration = Duration::from_secs(10);
/// How long a name is kept for a channel that is about to have it. Beyond it: it is free.
pub const NAME_CLAIM_TIMEOUT: Duration = Duration::from_secs(60);
/// How long after its claim a name may be put into the log. Beyond it: `busy`. What is left until the
/// claim ends is for the engine, which may have to try more than once.
pub const RENAME_TIMEOUT: Duration = Duration::from_secs(20);
const _: () = assert!(RENAME_TIMEOUT.as_secs() * 2 < NAME_CLAIM_TIMEOUT.as_secs());
const _: () = assert!(CALL_TIMEOUT.as_secs() < RENAME_TIMEOUT.as_secs());
/// Bytes of a channel's topic.
pub const TOPIC_BYTES_MAX: usize = 512;
/// Bytes of a channel name.
pub const CHANNEL_NAME_BYTES_MAX: usize = 64;
/// Bytes of a token's subject.
pub const SUBJECT_BYTES_MAX: usize = 128;
/// Bytes of a user's display name.
pub const USER_NAME_BYTES_MAX: usize = 64;

/// Entries in one answer of the revocation feed. More: asked for again at once.
pub const REVOCATIONS_PER_PAGE_MAX: usize = 1_000;

/// Revocations that a hub remembers, bans not counted. Beyond it the oldest is forgotten, and with it
/// every token that was issued before: those who have one are asked to fetch another.
pub const REVOCATIONS_HELD_MAX: usize = 65_536;
/// How long a hub remembers a revocation, at least. Tokens of the auth service that are older are
/// asked to be renewed. Where they live longer by `auth.access_token_lifetime`: for as long.
pub const REVOCATION_KEPT: Duration = Duration::from_secs(24 * 3_600);
/// Revocations that a shard has been told and has not looked at. Beyond it, who reads the feed
/// waits.
pub const NOTICES_MAX: usize = 64;
/// Connections that a shard looks through for those that are revoked, before other work gets a turn.
pub const REVOCATION_SCAN_CONNECTIONS: usize = 2_048;
/// How often a hub asks what was revoked.
pub const REVOCATION_INTERVAL: Duration = Duration::from_millis(250);
/// How long an answer of the revocation feed may take. Beyond it: an error, and the next attempt.
pub const REVOCATION_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest pause of a hub before it asks a revocation feed again that fails. The first is
/// [`REVOCATION_INTERVAL`]; each doubles it.
pub const REVOCATION_PAUSE_MAX: Duration = Duration::from_secs(5);
/// The pause before a hub asks again for a feed that its issuer said it does not have.
pub const REVOCATION_ABSENT_PAUSE: Duration = Duration::from_secs(60);
/// Answers of the revocation feed that are read without a pause: more than a hub keeps entries. Beyond
/// it: the next attempt goes on, so that a feed without an end holds up neither the start nor a core.
pub const REVOCATION_PAGES_PER_READ_MAX: usize = 128;
const _: () =
    assert!(REVOCATION_PAGES_PER_READ_MAX * REVOCATIONS_PER_PAGE_MAX > REVOCATIONS_HELD_MAX);
/// Bytes of one answer of the revocation feed. Beyond it: an error.
pub const REVOCATION_PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Users that may be banned. Beyond it: `too_many`.
pub const BANS_MAX: usize = 100_000;
/// Bans in one answer. More: asked for by `after`.
pub const BANS_PER_PAGE_MAX: usize = 1_000;
/// How often a node of a cluster reads all bans again, though nobody has told it of a change: that may get
/// lost.
pub const BANS_READ_INTERVAL: Duration = Duration::from_secs(30);
/// Pause between two such reads, also of those who were told.
pub const BANS_READ_PAUSE: Duration = Duration::from_millis(200);
/// Tries to write a ban while others write it. Beyond it: `busy`.
pub const BAN_ATTEMPTS_MAX: usize = 8;

/// Cookies of sessions that one sign-out ends. A browser has one, unless a neighbour under the same domain
/// made it another. Beyond it: `bad_request`, and the others are left.
pub const SESSION_COOKIES_MAX: usize = 4;
/// Bytes of an access token. Beyond it: `invalid_token`, unread.
pub const TOKEN_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a key's id. A key with a longer one is not taken from its document.
pub const KEY_ID_BYTES_MAX: usize = 128;
/// Bytes of a session's id in a token. Beyond it: `invalid_token`.
pub const SESSION_BYTES_MAX: usize = 64;
/// Keys of one issuer. Those beyond it are left out, and a warning says so.
pub const KEYS_PER_ISSUER_MAX: usize = 64;
/// Other issuers whose tokens are taken. Beyond it: the server does not start.
pub const OUTSIDE_ISSUERS_MAX: usize = 32;
/// Keys that were revoked while this process runs. Beyond it the oldest is taken as its issuer's
/// document has it.
pub const REVOKED_KEYS_MAX: usize = 1_024;
/// Bytes of the secret of an issuer that shares one with us, at least. Below it: the server does not
/// start.
pub const SECRET_BYTES_MIN: usize = 32;
/// Bits of an RSA key: weaker ones are not taken, and larger ones the library does not take.
pub const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=4_096;
/// Tokens that are remembered as verified. When full, those not used for longest go, many at once.
pub const VERIFIED_CACHED_MAX: usize = 20_000;
/// Bytes of a document of keys. A larger one is not read; the keys stay as they are.
pub const JWKS_BYTES_MAX: usize = 64 * 1024;
/// From the request for a document of keys to its end. Beyond it: tried again.
pub const JWKS_TIMEOUT: Duration = Duration::from_secs(5);
/// How often keys are fetched anew, so that those that were removed go here too.
pub const JWKS_REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// Pause after a fetch that failed, when no token asks for another.
pub const JWKS_RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Pause between two fetches, whatever tokens ask for. Those of unknown keys wait that long.
pub const JWKS_COOL_DOWN: Duration = Duration::from_secs(1);
/// How long a token of an unknown key waits for a fetch. Beyond it: refused, to be tried again.
pub const JWKS_WAIT_MAX: Duration = Duration::from_secs(3);
/// Tokens of unknown keys that wait for a fetch from one issuer. Beyond it: refused, to be tried
/// again.
pub const JWKS_WAITERS_MAX: usize = 1_024;
/// Bytes of the head of an answer to a fetch. Beyond it: the fetch has failed.
pub const FETCH_HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a connection for fetches is kept unused.
pub const FETCH_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections in a shard's mailbox. When full, the next shard gets them; when all are, the edge
/// answers 503.
pub const SHARD_MAILBOX_MAX: usize = 8_192;
/// Shards of one process.
pub const SHARDS_MAX: u16 = 64;
/// Messages from one shard to another that it has not taken in: one for each turn and way. When so
/// many are, further ones gather, and cross as one.
pub const CROSSINGS_MAX: usize = 8;
/// Bytes that wait in one shard for a way to another. Beyond it a full way for asks answers `busy`
/// to publishes, subscribes and history commands; while a way for answers is full, its shard forms
/// no batches and takes in no asks, so that drafts gather up to [`DRAFTS_MAX`]. What was begun
/// before goes on top: one batch per channel, the reads under way, one resume from the tail.
pub const CROSSING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Commands of one shard's connections that another shard has not replied to. Beyond it: `busy`. An
/// unsubscribe or the end of a connection is not held up: there is at most one per subscription.
pub const ASKS_ABROAD_MAX: u32 = 16_384;
/// Appends, chains and records that wait for the log writer. Beyond it: refused as busy.
pub const WRITER_MAILBOX_MAX: usize = 4_096;
/// Batches and records in one transaction of the log writer, those that are derived not counted. What exceeds it waits for the next.
pub const TRANSACTION_BATCHES_MAX: usize = 1_024;
/// Bytes in one transaction of the log writer. What exceeds it waits for the next.
pub const TRANSACTION_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of one append: an entry of a log, its keys and derived records. Beyond it: refused as too large.
pub const ENTRY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of one chain, with its keys and derived records. Beyond it: refused as too large.
pub const CHAIN_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Entries that a trim drops in one transaction. What exceeds it waits for the next.
pub const TRIM_STEP_ENTRIES: u32 = 256;
/// How long the log writer waits for a further chain of an import, whose chains come one after the
/// other. Other work comes in between and waits as long.
pub const CHAIN_GATHER: Duration = Duration::from_micros(100);
/// Trims that the log writer has begun. Beyond it: refused as busy.
pub const TRIMS_MAX: usize = 64;
/// Channels whose last entry the log writer keeps in memory. Beyond it they are read again.
pub const LAST_ENTRIES_MAX: usize = 65_536;
/// Bytes in the write-ahead log that are not in the database yet. Beyond it the log writer
/// checkpoints, between two transactions and without waiting for readers.
pub const WAL_CHECKPOINT_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes that may have been written between two looks at how long the write-ahead log is.
pub const WAL_LOOK_BYTES: u64 = 256 * 1024;
/// What a transaction is taken to write beside its content: the ends of a few tables and indexes.
pub const WAL_TRANSACTION_BYTES: u64 = 16 * 1024;
/// Bytes of the write-ahead log. Beyond it a checkpoint waits up to [`STORAGE_LOCK_TIMEOUT`] for
/// readers, so that the file starts anew.
pub const WAL_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long a statement waits for a lock on the database that another process holds, such as the
/// `sqlite3` shell. Beyond it: refused as unavailable.
pub const STORAGE_LOCK_TIMEOUT: Duration = Duration::from_millis(250);
/// Bytes of the database that the log writer keeps in memory. The least used pages fall out.
pub const PAGE_CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Reads that wait for the log readers. Beyond it: refused as busy.
pub const READER_MAILBOX_MAX: usize = 1_024;
/// Threads that read the log.
pub const LOG_READERS: usize = 2;

/// Passwords that wait for the auth workers, per worker, however short their wait may be. Beyond it:
/// 503 with `Retry-After`.
pub const AUTH_MAILBOX_PER_WORKER_MAX: usize = 24;
/// How long work may be expected to wait for the auth workers, by the time that their last hashes
/// took. Beyond it: 503 with `Retry-After`, however few passwords wait.
pub const AUTH_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long a password may really wait. Older ones are dropped unhashed: 503.
pub const AUTH_DEADLINE: Duration = Duration::from_secs(2);
/// One of so many hashes is a stranger's while any stranger's password waits, and one of so many
/// places that passwords wait in is kept for them. Known users come first otherwise.
pub const AUTH_STRANGER_SHARE: u32 = 16;
/// How long a password may have waited when the next is taken. Beyond it one more auth worker is
/// started, if the bound of workers allows it, and no further one for as long again.
pub const AUTH_GROW_AFTER: Duration = Duration::from_millis(100);
/// How long an auth worker may have nothing to do. Beyond it, it ends and its memory with it, unless
/// as few are left as there must be.
pub const AUTH_WORKER_IDLE_MAX: Duration = Duration::from_secs(30);
/// Auth workers that may be configured.
pub const AUTH_WORKERS_MAX: usize = 64;

/// Token buckets in one table of the auth service. Beyond it full ones are dropped, or the least
/// recently used, which begins full again: at most 16 MiB for a table.
pub const BUCKETS_MAX: usize = 65_536;

/// Bytes of a password, at least. Below it: `invalid_password`.
pub const PASSWORD_BYTES_MIN: usize = 8;
/// Bytes of a password. Beyond it: `invalid_password`, before any hashing.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Memory of one hash. A stored hash that asks for more is refused.
pub const HASH_MEMORY_KIB_MAX: u32 = 256 * 1024;
/// Passes of one hash. A stored hash that asks for more is refused.
pub const HASH_PASSES_MAX: u32 = 16;
/// Lanes of one hash. A stored hash that asks for more is refused.
pub const HASH_LANES_MAX: u32 = 8;

/// Bytes of a user name at sign-up. Beyond it: `invalid_username`.
pub const USERNAME_BYTES_MAX: usize = 32;
/// Requests that wait for the account store. Beyond it: 503 with `Retry-After`.
pub const ACCOUNTS_MAILBOX_MAX: usize = 256;
/// How long a request may have waited for the account store when its turn comes. Beyond it, it is not
/// begun: 503 with `Retry-After`.
pub const ACCOUNTS_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a statement on the account store waits for a lock that another process holds. Beyond it:
/// 503 with `Retry-After`.
pub const ACCOUNTS_LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one request to the account store of a cluster may wait for the cluster's engine, in all its
/// tries. Beyond it: 503 with `Retry-After`.
pub const ACCOUNTS_ENGINE_WAIT_MAX: Duration = Duration::from_secs(2);
/// Between two tries of a change to the accounts that another node was faster than: up to so long, by
/// chance.
pub const ACCOUNTS_RETRY_PAUSE_MAX: Duration = Duration::from_millis(20);
/// Rows that one change to the accounts of a cluster may write. Beyond it: refused. JetStream takes at
/// most 1,000 messages at once.
pub const ACCOUNT_ROWS_PER_COMMIT_MAX: usize = 900;
/// Rows of the accounts that a node reads at once from the cluster's engine, and the bytes of them.
pub const ACCOUNT_ROWS_PER_PAGE_MAX: usize = 1_000;
/// See [`ACCOUNT_ROWS_PER_PAGE_MAX`].
pub const ACCOUNT_ROWS_PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Sessions of one user in a cluster, whatever is configured: so many end in one change, with a word in
/// the feed for each.
pub const SESSIONS_PER_USER_IN_CLUSTER_MAX: u32 = 400;
const _: () =
    assert!(2 * SESSIONS_PER_USER_IN_CLUSTER_MAX as usize + 50 < ACCOUNT_ROWS_PER_COMMIT_MAX);
/// How long the cluster's engine keeps the news that a row of the accounts is gone. A node that was away
/// for longer, less a day, begins its copy anew.
pub const REMOVED_ROWS_KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Rows of a kind that the auth service's housekeeping drops in one transaction. What exceeds it waits
/// for the next tick.
pub const HOUSEKEEPING_STEP_ROWS: u32 = 256;
/// Between two ticks of the auth service's housekeeping. What another process on the same store did to
/// the keys is seen after this time at the latest.
pub const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(500);
/// Addresses from which a user is known to log in. Beyond it: the one not used for longest is
/// forgotten.
pub const KNOWN_ADDRESSES_PER_ACCOUNT_MAX: u32 = 16;
/// Trades of refresh tokens, and revocations of tokens, that one address may try at once. Larger than
/// the one of passwords, which cost a hash each; many users may share an address. Beyond it: 429.
pub const REFRESHES_PER_ADDRESS_BURST: u32 = 1_000;
/// Trades of refresh tokens, and revocations of tokens, that one address may try each second, in the
/// long run. Beyond it: 429.
pub const REFRESHES_PER_ADDRESS_PER_SECOND: f64 = 50.0;
/// How long an invite is good when its maker names no time.
pub const INVITE_LIFETIME_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Accounts that one invite code may be good for. Beyond it: 400.
pub const INVITE_USES_MAX: u32 = 10_000;
/// How long an invite code may be good. Beyond it: 400.
pub const INVITE_LIFETIME_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);
/// Token keys that are published at the same time. Beyond it: no further one is made.
pub const KEYS_PUBLISHED_MAX: usize = 16;
/// From the publication of a token key to its first signature, unless the key before it is revoked:
/// so that who remembers our keys has time to see it.
pub const KEY_SIGNS_AFTER: Duration = Duration::from_secs(60);
/// Bytes of a key file. A larger one is not a key.
pub const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;
/// Skew between our clock and the issuer's, for `iat` and `nbf`. `exp` gets none.
pub const TOKEN_LEEWAY: Duration = Duration::from_secs(60);

/// Header lines in the head of an HTTP request. Beyond it: 431.
pub const REQUEST_HEADERS_MAX: usize = 100;
/// Bytes of a host that is named in the policy of the page, as of DNS with a port. A longer one is left out.
pub const HOST_BYTES_MAX: usize = 253 + ":65535".len();
/// From the head of an HTTP request to the end of its body. Beyond it: 408.
pub const REQUEST_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Age at which an HTTP connection, not a WebSocket, is asked to end. Bounds readers that take no
/// answer.
pub const HTTP_AGE_MAX: Duration = Duration::from_secs(60);
/// How long an export or import on a connection of that age may not move. Beyond it: cut.
pub const TRANSFER_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an HTTP connection may go on after it was asked to end. Beyond it: cut.
pub const HTTP_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a file with a certificate or its key. A larger one is not that.
pub const TLS_FILE_BYTES_MAX: u64 = 256 * 1024;
/// Tickets that a client gets for its next TLS handshakes. One at a time is used by any.
pub const TLS_TICKETS: usize = 1;
/// Bytes that a TLS session holds encrypted because the socket takes no more. Beyond it: frames stay
/// in their outbox, which has its own bound.
pub const TLS_UNSENT_BYTES_MAX: usize = 64 * 1024;
/// Bytes that one read of a TLS socket can decrypt at most: those of a record that was in part there
/// before, and of the 4 KiB that a session reads at a time.
pub const TLS_READ_BYTES_MAX: usize = 24 * 1024;
/// Connections that are told 503 at the same time. Those beyond are cut without an answer.
pub const REFUSALS_MAX: usize = 64;
/// How long a refused connection may take to read its 503. Beyond it: cut.
pub const REFUSAL_TIMEOUT: Duration = Duration::from_millis(500);
/// Connections to the internal listener. Beyond it: 503 and close.
pub const INTERNAL_CONNECTIONS_MAX: usize = 64;
/// What one read of a body takes on the internal listener, where imports come. The others read as much
/// as a head may have. What is more waits for the next read.
pub const INTERNAL_READ_BYTES_MAX: usize = 256 * 1024;
/// How long a profile of the process may be sampled. Beyond it: 400. One is taken at a time; who
/// asks for another meanwhile gets 503.
pub const PROFILE_TIME_MAX: Duration = Duration::from_secs(60);
/// Samples that a profile takes of each second of CPU time. Beyond it: 400.
pub const PROFILE_HZ_MAX: i32 = 999;
/// When who was refused a profile may try again.
pub const PROFILE_RETRY_AFTER: Duration = Duration::from_secs(5);
/// Open files that are kept from connections, for the log and everything else: the database and its
/// readers take some twenty, refusals and the internal port have bounds of their own.
pub const OPEN_FILES_KEPT: u64 = 512;
/// The same as a share of the allowed open files, in percent, where that is less.
pub const OPEN_FILES_KEPT_PERCENT: u64 = 20;
/// Pause of the accept loop when the process is out of file descriptors: at least this, at most
/// twice.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The longest `hub.cork_max` that may be configured. Beyond it: the server does not start.
pub const CORK_MAX: Duration = Duration::from_millis(100);
/// Connections whose outboxes are flushed before other work gets a turn.
pub const FLUSH_CHUNK_CONNECTIONS: usize = 64;
/// Frames handed to one vectored write.
pub const WRITE_SLICES_MAX: usize = 64;
/// Largest [`Limits::outbox_bytes_max`] that has an effect. Beyond it: this.
pub const OUTBOX_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Places for frames that an outbox keeps when it drains. A peak beyond it gives its memory back at
/// once, and a connection that is silent until its ping the rest of it.
pub const OUTBOX_FRAMES_KEPT: usize = 16;
/// Bytes read from one connection in one turn, before others get theirs.
pub const TURN_READ_BYTES_MAX: usize = 64 * 1024;
/// Bytes inflated of what one connection sent, before others get their turn. A read may hold
/// hundreds of times as many as it has itself.
pub const TURN_INFLATED_BYTES_MAX: u64 = 256 * 1024;

/// Commands that callers have handed to a client's task. When full, the caller waits.
pub const CLIENT_MAILBOX_MAX: usize = 16;
/// Commands that a client has under way. Beyond it the client takes no further ones from callers.
pub const CLIENT_COMMANDS_MAX: usize = 256;
/// Deliveries that wait for the reader of a subscription, when its caller names no number. When
/// full, the client stops reading from the connection.
pub const CLIENT_DELIVERIES_MAX: usize = 64;
/// Largest message that a client takes from a server. Beyond it: the connection ends.
pub const CLIENT_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a client's connection allocates for reading at once.
pub const CLIENT_READ_BUFFER_BYTES: usize = 4 * 1024;
/// What a client's connection gathers before it writes.
pub const CLIENT_WRITE_BUFFER_BYTES: usize = 4 * 1024;
/// What a client's connection holds unwritten. The client hands it no frame while one is blocked.
pub const CLIENT_WRITE_BUFFER_BYTES_MAX: usize = 2 * 1024 * 1024;
/// From the first byte of a client's connection to the welcome. Beyond it: another attempt.
pub const CLIENT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client retries a command when its caller names no deadline.
pub const CLIENT_COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// The back-off of clients before the first retry, before jitter. It doubles with each.
pub const CLIENT_BACKOFF_MIN: Duration = Duration::from_millis(500);
/// The largest back-off of clients. A connection that held this long starts the back-off anew.
pub const CLIENT_BACKOFF_MAX: Duration = Duration::from_secs(20);
/// The longest wait before a retry that a client lets a server ask for. A longer one is cut to this.
pub const CLIENT_RETRY_AFTER_MAX: Duration = Duration::from_secs(10 * 60);
/// User names that a client remembers. When full, it forgets them all.
pub const CLIENT_USERS_MAX: usize = 4_096;
/// Largest body of an HTTP answer that a client reads. Beyond it: an error.
pub const CLIENT_HTTP_BODY_BYTES_MAX: usize = 64 * 1024;
/// From a client's HTTP request to the end of its answer. Beyond it: an error.
pub const CLIENT_HTTP_TIMEOUT: Duration = Duration::from_secs(15);

const _: () = assert!(TAIL_BYTES_MAX + REPLAY_BYTES_MAX < 1024 * 1024, "a resume fits an outbox");
const _: () = assert!(TLS_READ_BYTES_MAX <= TURN_READ_BYTES_MAX, "a turn reads a whole record");
const _: () = assert!(
    OPEN_FILES_KEPT as usize > REFUSALS_MAX + INTERNAL_CONNECTIONS_MAX + 128,
    "sockets that take no place leave room for files"
);
const _: () = assert!(OUTBOX_BYTES_MAX <= u32::MAX as usize / 2, "an outbox counts in 32 bits");
const _: () = assert!(
    2 * PRESENCE_USERS_MAX as usize * "4294967295,".len() < (TAIL_BYTES_MAX + REPLAY_BYTES_MAX) / 2,
    "all who came and all who went fit into half of the smallest outbox, or nobody would hear of it"
);
const _: () = assert!(BATCH_BYTES_MAX <= TAIL_BYTES_MAX, "a tail holds its newest batch");
const _: () = assert!(BATCH_MESSAGES_MAX <= u16::MAX as usize, "a batch counts in 16 bits");
const _: () = assert!(BATCH_MESSAGES_MAX <= DRAFTS_MAX, "a full batch can wait");
const _: () =
    assert!(PROFILE_TIME_MAX.as_secs() <= HTTP_AGE_MAX.as_secs(), "a profile outlives no request");
const _: () = assert!(HISTORY_MESSAGES_DEFAULT <= HISTORY_MESSAGES_MAX, "the default is allowed");

/// Names that the directory keeps in memory, per kind. Beyond it: all are forgotten and read again.
pub const DIRECTORY_CACHED_MAX: usize = 100_000;
/// Tries for a fresh number while others take theirs. Beyond it: `busy`.
pub const NUMBER_ATTEMPTS_MAX: usize = 64;
/// Numbers that a process reserves at once. Those that it has not given out are lost with it.
pub const NUMBER_BLOCK: u32 = 64;
/// Channels that a shard keeps loaded although nobody is subscribed. Beyond it, idle ones are let go.
pub const IDLE_CHANNELS_LOADED_MAX: usize = 16_384;
/// Tries to move a read marker while other connections of the same user move it. Beyond it: `busy`.
pub const READ_MARKER_ATTEMPTS_MAX: usize = 64;
/// Pause before a read that failed in the middle of a recovery is tried again.
pub const RECOVERY_PAUSE: Duration = Duration::from_millis(250);
const _: () = assert!(BATCH_BYTES_MAX < TRANSACTION_BYTES_MAX, "a transaction holds a full batch");
const _: () = assert!(BATCH_BYTES_MAX < CHAIN_BYTES_MAX, "a chain holds a full batch");
const _: () = assert!(WAL_LOOK_BYTES < WAL_CHECKPOINT_BYTES, "a due checkpoint is seen soon");
const _: () = assert!(WAL_CHECKPOINT_BYTES < WAL_BYTES_MAX, "a checkpoint comes before the bound");

/// Bytes of a piece of an export, which waits until the piece before it was taken. All but the last
/// have as many. What is made of one batch comes on top while it is cut.
pub const EXPORT_CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of one read of the log for an export. One is read ahead.
pub const EXPORT_READ_BYTES_MAX: usize = 256 * 1024;
/// Exports at once on each of the two ports. Beyond it: `busy`.
pub const EXPORTS_MAX: usize = 8;
/// Channels that an export reads at once.
pub const EXPORT_CHANNELS_PER_PAGE: usize = 256;
/// Members in one line of an export. More: another line of the same channel.
pub const EXPORT_MEMBERS_PER_LINE: usize = 1_000;
/// Bytes of users that an export remembers, with what the table takes for each. Beyond it: all are
/// forgotten and read again.
pub const EXPORT_USERS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Users that an export reads at once, so that it leaves room in the mailbox of the log readers.
pub const EXPORT_USERS_PER_READ: usize = 16;
/// Pause of an export that finds too many reads waiting.
pub const EXPORT_BUSY_PAUSE: Duration = Duration::from_millis(50);
/// Tries of an export that finds too many reads waiting. Beyond it: it ends with that error.
pub const EXPORT_TRIES_MAX: usize = 200;
/// Bytes of one read of a log that is moved to another engine. What is read is one chain, or several.
pub const MIGRATE_READ_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Batches of a chain of a log that is moved: no engine takes more in one step.
pub const MIGRATE_CHAIN_BATCHES_MAX: usize = 1_000;
/// Channels that are moved at once. Each has two reads and a chain in memory.
pub const MIGRATE_CHANNELS_AT_ONCE: usize = 4;
/// Records that are written at once when they are moved.
pub const MIGRATE_RECORDS_AT_ONCE: usize = 64;
/// Pause before something is tried again that an engine could not do just now.
pub const MIGRATE_PAUSE: Duration = Duration::from_millis(250);
/// Tries of one thing, half a minute in all: longer than engines elect a leader. Beyond it: the migration
/// ends, and goes on where it stopped when it is run again.
pub const MIGRATE_TRIES_MAX: usize = 120;
/// How long a migration listens for other nodes, each of which tells every second that it is alive.
pub const MIGRATE_LISTEN: Duration = Duration::from_secs(3);
/// Bytes of a line of an import, whose body may be all escapes. Beyond it: an invalid line, of which no
/// more is kept.
#[must_use]
pub const fn import_line_bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max.saturating_mul(6).saturating_add(4 * 1024)
}
/// Bytes of the id of an imported message. Beyond it: an invalid line.
pub const IMPORT_ID_BYTES_MAX: usize = 64;
/// How deep the values of a line of an import may lie, as `serde_json` counts. Beyond it: an invalid
/// line.
pub const IMPORT_DEPTH_MAX: usize = 128;
/// Bytes of an import that a worker decodes at a time, but for a single line that is longer.
pub const IMPORT_CHUNK_BYTES: usize = 512 * 1024;
/// Threads that decode imports.
pub const IMPORT_DECODERS: usize = 2;
/// Imports at the same time. Beyond it: refused as busy.
pub const IMPORTS_MAX: usize = 16;
/// Chunks and blocks of one import between its body and the log. When so many are, no more of the body
/// is read.
pub const IMPORT_CHUNKS_MAX: usize = 12;
/// Chunks that wait for a decoder, and blocks that wait for the writer. When full, imports wait: those
/// that were dropped leave theirs behind.
pub const IMPORT_JOBS_MAX: usize = IMPORTS_MAX * IMPORT_CHUNKS_MAX;
/// Authors whose numbers the importer keeps in memory. Beyond it: all are forgotten and asked for again.
pub const IMPORT_AUTHORS_CACHED_MAX: usize = 65_536;
/// Invalid lines that the answer to an import names. The others are counted.
pub const IMPORT_INVALID_LINES_TOLD_MAX: usize = 100;
/// Ranges of time of which the importer keeps what was imported. Beyond it: read from the log again.
pub const IMPORT_SPANS_HELD_MAX: usize = 64;
/// Records in one range of time that the importer looks up as a whole, but for those of one moment and
/// for lines that are not in the order of their times. Beyond it: another range.
pub const IMPORT_SPAN_RECORDS: u64 = 4_096;
/// Bytes of one read of the log when an import looks for what is there.
pub const IMPORT_READ_BYTES_MAX: usize = 1024 * 1024;
/// Lines that came late, of all channels, that the importer keeps in memory. Beyond it: each is looked
/// up by itself.
pub const IMPORT_STRAGGLERS_HELD_MAX: usize = 1024 * 1024;
/// Such lines in one page when they are read.
pub const IMPORT_STRAGGLERS_PER_SCAN: usize = 4_096;
/// Record bytes from which an import's next commit takes no further block.
pub const IMPORT_WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// Records from which it takes none.
pub const IMPORT_WINDOW_RECORDS: usize = 65_536;
/// Record bytes from which an import's next commit waits for no further block.
pub const IMPORT_LINGER_BYTES: usize = 1024 * 1024;
/// How long it waits for one.
pub const IMPORT_LINGER: Duration = Duration::from_millis(4);
/// Largest body that an import takes, whatever else may be published. Beyond it: an invalid line.
pub const IMPORT_BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What a line that came late takes of a commit beside its record.
pub const IMPORT_STRAGGLER_BYTES: usize = 192;
/// Channels that the importer keeps loaded. Beyond it, those with nothing to commit are let go.
pub const IMPORT_CHANNELS_LOADED_MAX: usize = 4_096;
/// Channels that an import commits to at the same time. The next follow as these are done.
pub const IMPORT_CHAINS_MAX: usize = 512;
/// Authors that are looked up at the same time.
pub const IMPORT_LOOKUPS_MAX: usize = 256;
/// Tries to commit a chain while others write to the channel, or the engine cannot tell. Beyond it: the
/// import ends.
pub const IMPORT_ATTEMPTS_MAX: usize = 64;
/// Pause before a commit is tried again whose outcome the engine could not tell.
pub const IMPORT_PAUSE: Duration = Duration::from_millis(50);
/// How long an import waits for more of its body. Beyond it: the import ends.
pub const IMPORT_BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the importer keeps what it has loaded when nobody imports.
pub const IMPORT_IDLE: Duration = Duration::from_secs(1);
/// Identities of the lines of a channel's newest moment that are kept in memory. Beyond it: they are
/// read from the log.
pub const IMPORT_MOMENT_MAX: usize = 262_144;
const _: () = assert!(
    IMPORT_WINDOW_BYTES + 2 * IMPORT_CHUNK_BYTES + IMPORT_BODY_BYTES_MAX
        < JETSTREAM_ENTRY_BYTES_MAX,
    "a chain holds all of a commit"
);
