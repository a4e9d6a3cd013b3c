//! The bounds of a cluster: its engine on JetStream, its records, and what nodes tell each other.

use std::time::Duration;

use super::CHAIN_BYTES_MAX;

/// Entries of other nodes that wait for the hub. Beyond it: dropped, and the feed is reset.
pub const FEED_MAX: usize = 1_024;
/// How often a node tells the others that it runs.
pub const ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// A node that is silent for this long is taken for gone.
pub const NODE_SILENCE_MAX: Duration = Duration::from_secs(5);
/// Nodes that one node knows of. Beyond it: what a further one tells is dropped.
pub const NODES_MAX: usize = 64;
/// Messages of other nodes that wait for the cluster's task. Beyond it: dropped.
pub const INBOX_MAX: usize = 4_096;
/// How long forwarded publishes wait for the answer of the channel's owner. Beyond it: they are
/// written by this node itself, and the keys keep them from being there twice.
pub const FORWARD_TIMEOUT: Duration = Duration::from_millis(300);
/// A node that has done nothing for so long takes no forwards for [`ALIVE_INTERVAL`]: they may be as old,
/// and done with.
pub const STANDSTILL: Duration = Duration::from_secs(2);
const _: () = assert!(STANDSTILL.as_millis() >= 2 * ALIVE_INTERVAL.as_millis());
/// For how long nothing is forwarded to a node that did not answer or took nothing.
pub const SUSPECT_FOR: Duration = Duration::from_secs(2);
/// How long a publish that the owner has stored waits for the feed to bring it. Beyond it: it is
/// looked for in the log, and after as long again.
pub const LANDING_TIMEOUT: Duration = Duration::from_millis(200);
/// Forwards of other nodes that are under way here, each of at most one batch. Beyond it: not taken,
/// and the other node writes by itself.
pub const FORWARDS_TAKEN_MAX: usize = 1_024;
/// The longest pause of a node that again and again is not the first to append to a channel.
pub const CONTENTION_PAUSE_MAX: Duration = Duration::from_millis(32);
/// Over how long the channels in memory look at their logs after the feed was interrupted.
pub const RESET_SPREAD: Duration = Duration::from_secs(2);
/// How long a publish waits for its acknowledgement by the cluster's engine. Beyond it: its outcome is
/// unknown, and is looked for in the log. Such a server syncs within some milliseconds.
pub const NATS_ACK_TIMEOUT: Duration = Duration::from_millis(500);
/// So many messages that are stored together may take as long again.
pub const NATS_ACK_MESSAGES: usize = 100;
/// And so many bytes.
pub const NATS_ACK_BYTES: usize = 1024 * 1024;
/// The same for a migration, which stores as much at once as it may and has nobody who waits.
pub const MIGRATION_ACK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a read of the cluster's engine waits for its answer. Beyond it: unavailable.
pub const NATS_READ_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a page of a stream waits for its next message. Beyond it: unavailable.
pub const NATS_PAGE_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of what all names of a cluster in NATS begin with: they go with every message.
pub const NATS_PREFIX_BYTES_MAX: usize = 32;
/// How long a server of NATS has to connect, or to tell something of itself, when it is checked.
pub const NATS_CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of what it tells of itself that are read.
pub const NATS_VARZ_BYTES_MAX: usize = 1024 * 1024;
/// The oldest nats-server that is taken: it stores several messages in one step.
pub const NATS_VERSION_MIN: (u32, u32) = (2, 15);
/// Bytes of a message that each server of NATS must take. A batch with all that goes with it has less.
pub const NATS_MAX_PAYLOAD_MIN: u64 = 8 * 1024 * 1024;
/// Servers of NATS that a cluster has at least: with two, the loss of one would stop both.
pub const NATS_SERVERS_MIN: usize = 3;
/// How often a node that starts looks again whether enough servers of NATS are there.
pub const NATS_START_PAUSE: Duration = Duration::from_millis(500);
/// How long a node that starts waits for enough servers of NATS, as they may be starting too. Beyond it:
/// it does not start.
pub const NATS_START_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a node asks the cluster's engine for something small, to see that it answers.
pub const ENGINE_PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// How long the engine of a cluster may leave a probe unanswered. Beyond it: `/readyz` fails.
pub const ENGINE_SILENCE_MAX: Duration = Duration::from_secs(2);
/// How long a node may take to connect to the cluster's engine and to make or check its streams. Beyond
/// it: it does not start.
pub const NATS_OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection to a server of the cluster's engine may take. Beyond it: the next server.
pub const NATS_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between pings on the connection to the cluster's engine. After two without an answer the
/// connection is made anew.
pub const NATS_PING_INTERVAL: Duration = Duration::from_secs(2);
/// The shortest pause before a lost connection is made again.
pub const NATS_RECONNECT_MIN: Duration = Duration::from_millis(100);
/// The longest. It is drawn at random in between.
pub const NATS_RECONNECT_MAX: Duration = Duration::from_millis(500);
/// Pause before what the connection refused, or what no server has taken, is asked again.
pub const NATS_RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Messages that wait for who subscribed to them. Beyond it: dropped, and every feed is reset.
pub const NATS_SUBSCRIPTION_MAX: usize = 4_096;
/// How long JetStream remembers the ids of messages, which hubbub's do not have. As short as it may be.
pub const NATS_DUPLICATE_WINDOW: Duration = Duration::from_millis(100);
/// How often nodes tell each other how far the streams are. What a feed lost at its end is found after
/// twice as long.
pub const NATS_DIGEST_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of one such digest that are read.
pub const NATS_DIGEST_BYTES_MAX: usize = 64 * 1024;
/// Sequences of a stream that a feed which missed them reads. Beyond it: reset.
pub const FEED_REPAIRED_MAX: u64 = 1_000;
/// Bytes of one read of them.
pub const FEED_PAGE_BYTES: usize = 1024 * 1024;
/// How long one request to the cluster's engine may take, with all that it leads to. Beyond it: an append
/// is unknown, everything else unavailable.
pub const NATS_REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Requests to the cluster's engine on their way. Beyond it: refused as busy.
pub const JETSTREAM_REQUESTS_MAX: usize = 4_096;
/// Logs that the channels of a cluster are spread over.
pub const JETSTREAM_LOGS_MAX: usize = 64;
/// Bytes of one append, chain or record in a cluster, with its keys and derived records: the servers take
/// messages of 8 MiB. Beyond it: refused as too large.
pub const JETSTREAM_ENTRY_BYTES_MAX: usize = CHAIN_BYTES_MAX - 64 * 1024;
/// Batches of a chain: what JetStream stores all or none. Beyond it: refused as too large.
pub const JETSTREAM_CHAIN_MAX: usize = 1_000;
/// Chains on their way to the cluster's engine. Beyond it they wait. The servers refuse more than 50 of
/// a stream.
pub const JETSTREAM_CHAINS_AT_ONCE: usize = 32;
/// How long a log must be seen to end before what was in it until it counts as damaged. A server that was
/// cut off takes a few seconds to learn that it does not lead any more.
pub const JETSTREAM_REGRESSION_MIN: Duration = Duration::from_secs(15);
/// Entries that a window of keys takes in one by one. Beyond it: it is rebuilt from the end of the log.
pub const JETSTREAM_KEYS_BEHIND_MAX: u64 = 65_536;
/// Ends of logs that are read at the same time for one request.
pub const JETSTREAM_HEADS_AT_ONCE: usize = 32;
/// Entries of one read of a stream for a log. More: read again.
pub const JETSTREAM_PAGE_ENTRIES: usize = 256;
/// Bytes of one such read, but for a single entry larger than it.
pub const JETSTREAM_PAGE_BYTES: usize = 256 * 1024;
/// Keys of a channel's newest publishes that a cluster's node keeps in memory, by which it tells a repeat.
pub const JETSTREAM_KEYS_MIN: usize = 10_000;
/// How long it keeps all of them, if they are more.
pub const JETSTREAM_KEYS_KEPT: Duration = Duration::from_secs(600);
/// The most keys of one channel. Beyond it the oldest are forgotten, however new.
pub const JETSTREAM_KEYS_MAX: usize = 100_000;
/// Bytes of the log that are read to rebuild them. Beyond it: the newest of them.
pub const JETSTREAM_KEYS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Keys of all channels together, about 100 bytes each. Beyond it: those of the channels not used for
/// longest are forgotten, and read again when needed.
pub const JETSTREAM_KEYS_ALL_MAX: usize = 2_000_000;
/// Channels of which a node keeps keys and the last known entry. Beyond it: as above.
pub const JETSTREAM_WINDOWS_MAX: usize = 65_536;
/// Records that are written in one step, all or none, as far as the servers can: 1,000 messages. What
/// follows from more goes before in steps of its own.
pub const RECORDS_PER_BATCH_MAX: usize = 1_000;
/// What the headers of a record take at most of what the servers take of one message.
pub const RECORD_HEADERS_BYTES_MAX: usize = 1024;
/// Bytes of the records of one such step. Beyond it: as above.
pub const RECORDS_BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Such steps that one node has on their way. Beyond it: they wait for one another, as long as a read.
/// The servers refuse more than 50 of a stream.
pub const RECORDS_BATCHES_MAX: usize = 8;
/// Records that are read at the same time before they are written together.
pub const RECORD_READS_MAX: usize = 16;
/// Tries to write records while others write them. Beyond it: busy.
pub const RECORD_ATTEMPTS_MAX: u32 = 32;
/// Refusals of the servers to store them, for other reasons, after which it is not tried again.
pub const RECORD_REFUSALS_MAX: u32 = 4;
/// Pause after the first such try; it doubles.
pub const RECORD_PAUSE: Duration = Duration::from_millis(2);
/// The longest such pause.
pub const RECORD_PAUSE_MAX: Duration = Duration::from_millis(100);
/// How long a list of records waits until its node knows of all that was written before. Beyond it:
/// unavailable.
pub const MIRROR_TIMEOUT: Duration = Duration::from_secs(2);
/// Records and bytes of one read when a node reads what was written while it was not connected.
pub const MIRROR_PAGE_RECORDS: usize = 256;
/// See above.
pub const MIRROR_PAGE_BYTES: usize = 1024 * 1024;
/// Channels whose last entry's records a node remembers to write. Beyond it: it looks again at all
/// channels that were announced.
pub const UNSETTLED_MAX: usize = 65_536;
/// Bytes of these records. Beyond it: they are read from the log again.
pub const UNSETTLED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long one who needs such a record leaves it to the node that appended the entry.
pub const SETTLE_GRACE: Duration = Duration::from_millis(20);
/// Age from which it is written by any node that knows of it; then the entry is read again first, since
/// it may not be the last any more.
pub const UNSETTLED_AGE: Duration = Duration::from_millis(500);
/// Channels that are settled at the same time.
pub const SETTLED_AT_ONCE: usize = 16;
/// How long the records of one entry may take. Beyond it: unknown to the appender, unavailable to others.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Channels that one node has announced to settle. Beyond it: refused as busy.
pub const ANNOUNCED_MAX: usize = 65_536;
/// Age from which such an announcement is made again before it is relied on.
pub const ANNOUNCED_RENEW: Duration = Duration::from_secs(600);
/// Age from which it is one of a node that is gone: wall clocks may differ by the difference.
pub const ANNOUNCED_STALE: Duration = Duration::from_secs(3_600);
/// How long after its last use it is withdrawn.
pub const ANNOUNCED_IDLE: Duration = Duration::from_secs(30);
/// How often idle announcements are looked for.
pub const ANNOUNCED_INTERVAL: Duration = Duration::from_secs(5);
/// Channels that a record remembers to follow from. Beyond it: the one that wrote it longest ago is
/// forgotten.
pub const SETTLED_PER_RECORD_MAX: usize = 8;
/// Casts that wait for the connection. When full: dropped.
pub const NODE_CASTS_MAX: usize = 1_024;
/// Messages of other nodes that wait for who reads them. When full: dropped.
pub const NODE_INBOX_MAX: usize = 4_096;
/// Calls of other nodes that wait for an answer. Beyond it: they get none.
pub const NODE_CALLS_MAX: usize = 1_024;
/// How long a call of another node may wait for its answer. Beyond it: it gets none.
pub const NODE_CALL_TIMEOUT: Duration = Duration::from_secs(5);
