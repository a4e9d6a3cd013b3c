//! Rounds of writing over real sockets, polled step by step: each step is a chunk, and between two of
//! them the test is what gets a turn.

use std::{
    future::poll_fn,
    io::Read as _,
    net::{TcpListener, TcpStream},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use bytesize::ByteSize;
use tokio::{
    runtime::{Builder, LocalOptions},
    task::yield_now,
    time::timeout,
};

use super::*;
use crate::{
    engine::memory::MemoryEngine,
    hub::{
        Format, crossing::borders, desk::tests::a_desk, directory::ChannelInfo,
        revocations::Register, shard::Publish,
    },
    limits::{Limits, REVOCATION_KEPT},
    log::{
        place::{ChannelId, Epoch, UserId},
        settings::Access,
    },
    wire::{Encoding, code::ErrorCode},
};

/// Two chunks and a bit.
const SUBSCRIBERS: usize = 2 * FLUSH_CHUNK_CONNECTIONS + 2;
const BUDGET: Duration = Duration::from_millis(5);
/// How long a fan-out is held: longer than what the test does meanwhile.
const HELD: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(10);

struct Rig {
    engine: MemoryEngine,
    shard: Rc<Shard<MemoryEngine, Socket>>,
    listener: TcpListener,
    channel: ChannelInfo,
}

/// A connection of the shard, and the client's end of its socket.
struct End {
    port: Rc<Port<Socket>>,
    client: TcpStream,
}

impl Rig {
    fn new() -> Self {
        let engine = MemoryEngine::default();
        let shared = Arc::new(engine.clone());
        let desk = a_desk(&shared);
        let limits = Limits { outbox_bytes_max: ByteSize::mib(1), ..Limits::default() };
        let (borders, _) = borders(1).pop().unwrap();
        let register = Arc::new(Register::new(REVOCATION_KEPT));
        let limits = Arc::new(limits);
        let shard = Shard::new(borders, shared, desk, register, limits, Arc::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let channel = ChannelInfo {
            id: ChannelId(1),
            name: "lobby".into(),
            epoch: Epoch(1_700_000_000),
            access: Access::Open,
        };
        Self { engine, shard, listener, channel }
    }

    fn connect(&self) -> End {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        client.set_nonblocking(true).unwrap();
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let socket = Socket::new(stream, None).unwrap();
        End { port: self.shard.connect(Format::plain(Encoding::Proto), socket), client }
    }

    /// Connections that receive the channel, to all of which everything so far is written.
    async fn subscribers(&self) -> Vec<End> {
        let mut ends: Vec<_> = (0..SUBSCRIBERS).map(|_| self.connect()).collect();
        for end in &ends {
            self.shard.subscribe(&end.port, 1, UserId(1), &self.channel, None, false);
        }
        others_run().await;
        let mut ports = Vec::new();
        self.shard.take_urgent(&mut ports);
        assert_eq!(ports.len(), SUBSCRIBERS);
        flush_all(self.shard.metrics(), &mut ports);
        assert!(ends.iter_mut().all(|end| end.received() > 0));
        ends
    }

    fn publish(&self, end: &End) {
        let publish =
            Publish { id: 2, user: UserId(1), client_message_id: None, body: "hello".to_owned() };
        self.shard.publish(&end.port, publish, &self.channel);
    }

    fn batches(&self) -> usize {
        self.engine.with_log(|log| log.entries(self.channel.id).len())
    }

    /// A message in the outboxes of all subscribers.
    async fn commit(&self, end: &End) {
        let before = self.batches();
        self.publish(end);
        self.shard.form_batches();
        others_run().await;
        assert_eq!(self.batches(), before + 1);
    }
}

impl End {
    /// How many bytes have come since the last look.
    fn received(&mut self) -> usize {
        self.client.read(&mut [0; 4_096]).unwrap_or(0)
    }
}

/// Lets what was started on this thread get on.
async fn others_run() {
    for _ in 0..20 {
        yield_now().await;
    }
}

/// Goes on with a round until it lets others have a turn, or is over.
async fn step(mut round: Pin<&mut impl Future<Output = ()>>) -> Poll<()> {
    poll_fn(|cx| Poll::Ready(round.as_mut().poll(cx))).await
}

fn on_a_shard(test: impl Future<Output = ()>) {
    let mut runtime = Builder::new_current_thread();
    runtime.enable_all().build_local(LocalOptions::default()).unwrap().block_on(test);
}

#[test]
fn a_reply_waits_for_one_chunk_of_a_fan_out_and_not_for_all() {
    on_a_shard(async {
        let rig = Rig::new();
        let mut ends = rig.subscribers().await;
        rig.commit(&ends[0]).await;
        let mut stranger = rig.connect();
        let (mut cork, mut ports) = (Cork::new(BUDGET, Instant::now()), Vec::new());
        let mut round = pin!(write_round(&rig.shard, &mut cork, &mut ports));
        assert!(step(round.as_mut()).await.is_pending());
        rig.shard.refuse(&stranger.port, 1, ErrorCode::BadRequest);
        assert_eq!(stranger.received(), 0);
        assert!(step(round.as_mut()).await.is_pending(), "there is a third chunk");
        assert!(stranger.received() > 0, "its reply is behind a fan-out");
        assert_eq!(ends[SUBSCRIBERS - 1].received(), 0, "the fan-out is not over");
        assert!(step(round.as_mut()).await.is_ready());
        assert!(ends.iter_mut().all(|end| end.received() > 0));
    });
}

#[test]
fn what_is_published_during_a_round_is_committed_during_it_and_shares_its_writes() {
    on_a_shard(async {
        let rig = Rig::new();
        let mut ends = rig.subscribers().await;
        rig.commit(&ends[0]).await;
        let one_message = ends[SUBSCRIBERS - 1].port.outbox.borrow().queued_bytes();
        let before = rig.shard.metrics().writes.get();
        let (mut cork, mut ports) = (Cork::new(BUDGET, Instant::now()), Vec::new());
        let mut round = pin!(write_round(&rig.shard, &mut cork, &mut ports));
        assert!(step(round.as_mut()).await.is_pending());
        rig.publish(&ends[0]);
        assert!(step(round.as_mut()).await.is_pending());
        // The chunk that was just written knew nothing of it, but the batch is on its way.
        others_run().await;
        assert_eq!(rig.batches(), 2, "it waits for the end of the round");
        assert!(
            step(round.as_mut()).await.is_pending(),
            "others have a turn before the next round"
        );
        assert!(step(round.as_mut()).await.is_ready());
        assert!(ends[SUBSCRIBERS - 1].received() > one_message, "both messages at once");
        let writes = rig.shard.metrics().writes.get() - before;
        // The publisher's reply, with the second message, is urgent.
        assert_eq!(writes, SUBSCRIBERS as u64 + 1);
        assert_eq!(rig.shard.dirty_count(), SUBSCRIBERS - 2, "these have the second one to come");
    });
}

#[test]
fn what_is_held_back_leaves_by_itself_and_no_reply_is_held_with_it() {
    on_a_shard(async {
        let rig = Rig::new();
        let mut ends = rig.subscribers().await;
        rig.commit(&ends[0]).await;
        let mut stranger = rig.connect();
        let mut cork = Cork::new(BUDGET, Instant::now());
        // As if a round was about to begin, so that no slow machine lets the time pass here.
        cork.begin(Instant::now() + HELD);
        let mut turns = pin!(end_turns_with(&rig.shard, cork));
        assert!(step(turns.as_mut()).await.is_pending());
        assert!(ends[0].received() > 0, "its reply takes its message along");
        assert_eq!(ends[1].received(), 0, "the fan-out is held");
        rig.shard.refuse(&stranger.port, 1, ErrorCode::BadRequest);
        assert!(step(turns.as_mut()).await.is_pending());
        assert!(stranger.received() > 0, "a reply is held");
        assert_eq!(ends[1].received(), 0, "the fan-out is held");
        // Nothing else happens on this shard.
        let written = poll_fn(|cx| {
            assert!(turns.as_mut().poll(cx).is_pending());
            if rig.shard.dirty_count() == 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        timeout(PATIENCE, written).await.expect("the cork lets it go");
        assert!(ends[1].received() > 0);
    });
}
