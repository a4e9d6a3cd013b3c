//! A client that does not take its frames is let go, and nobody else notices.

use std::time::Duration;

use bytesize::ByteSize;
use hubbub::{engine::Engine, wire::code::CloseCode};

use crate::harness::{Heard, LOBBY, Message, Peer, TestServer, position};

/// More than the kernel keeps for a connection, many times over: nobody publishes so much in vain.
const PUBLISHES_MAX: u64 = 10_000;
const BODY_BYTES: usize = 16 * 1024;

/// Publishes until the server has closed a slow consumer. The attentive one gets every message as
/// it is published. Answers how many there are.
pub(crate) async fn publish_until_closed<E: Engine>(
    server: &TestServer<E>,
    publisher: &mut Peer,
    attentive: &mut Peer,
) -> u64 {
    let body = "x".repeat(BODY_BYTES);
    for sequence in 1..PUBLISHES_MAX {
        assert_eq!(publisher.publish(LOBBY, &body).await.unwrap().sequence, sequence);
        assert_eq!(attentive.messages(1).await[0].sequence, sequence);
        if sequence % 16 == 0 && server.closed("slow_consumer").await > 0 {
            return sequence;
        }
    }
    panic!("a client that reads nothing was never closed");
}

/// What a slow client finds when it reads at last: how far it got, in order and without a hole.
pub(crate) async fn read_what_came(slow: &mut Peer) -> u64 {
    let mut last = 0;
    loop {
        match slow.hear().await {
            Heard::Messages(messages) => {
                assert_in_order(&messages, last);
                last += messages.len() as u64;
            }
            Heard::Close(code) => {
                assert_eq!(code, CloseCode::SlowConsumer.number());
                assert_eq!(slow.hear().await, Heard::End, "the close is the last frame");
                return last;
            }
            // Who takes nothing for as long as the server lingers does not get the close either.
            Heard::End => return last,
            other => panic!("{other:?}"),
        }
    }
}

fn assert_in_order(messages: &[Message], after: u64) {
    let sequences = messages.iter().map(|message| message.sequence);
    assert!(sequences.eq(after + 1..=after + messages.len() as u64));
}

#[tokio::test]
async fn a_client_that_stops_reading_is_closed_while_messages_flow_and_resumes_later() {
    let server = TestServer::in_memory_with(|config| {
        config.limits.outbox_bytes_max = ByteSize::kib(512);
        // Its outbox is what ends it here, not its silence.
        config.limits.write_stall_timeout = Duration::from_secs(3_600);
    })
    .await;
    let mut slow = Peer::login_narrow(&server, "slow").await;
    let epoch = slow.subscribe(LOBBY, None).await.unwrap().epoch;
    let mut attentive = Peer::login(&server, "attentive").await;
    attentive.subscribe(LOBBY, None).await.unwrap();
    let mut publisher = Peer::login(&server, "publisher").await;

    let published = publish_until_closed(&server, &mut publisher, &mut attentive).await;
    let mut last = read_what_came(&mut slow).await;
    assert!(last < published, "what it did not take was dropped");
    assert_eq!(server.closed("slow_consumer").await, 1);

    // It comes back, as often as it takes, and has everything once; gaps are named.
    let mut again = Peer::login(&server, "slow").await;
    again.subscribe(LOBBY, position(epoch, last)).await.unwrap();
    publisher.publish(LOBBY, "the end").await.unwrap();
    while last < published + 1 {
        match again.hear().await {
            Heard::Messages(messages) => {
                assert_in_order(&messages, last);
                last += messages.len() as u64;
            }
            Heard::Envelope(hubbub::wire::proto::server_envelope::Envelope::Gap(gap)) => {
                assert_eq!(gap.from_sequence, last + 1);
                last = gap.to_sequence;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(attentive.messages(1).await[0].body, "the end");
    assert_eq!(attentive.catch_up().await, []);
}

#[tokio::test]
async fn a_client_that_takes_nothing_for_too_long_is_closed_with_room_in_its_outbox() {
    let server = TestServer::in_memory_with(|config| {
        config.limits.outbox_bytes_max = ByteSize::gib(1);
        config.limits.write_stall_timeout = Duration::from_millis(100);
    })
    .await;
    let mut slow = Peer::login_narrow(&server, "slow").await;
    slow.subscribe(LOBBY, None).await.unwrap();
    let mut attentive = Peer::login(&server, "attentive").await;
    attentive.subscribe(LOBBY, None).await.unwrap();
    let mut publisher = Peer::login(&server, "publisher").await;
    let published = publish_until_closed(&server, &mut publisher, &mut attentive).await;
    assert!(read_what_came(&mut slow).await < published);
    assert_eq!(attentive.catch_up().await, []);
}

#[tokio::test]
async fn pongs_that_nobody_reads_are_bounded_too() {
    use crate::harness::{PING, masked};
    let server = TestServer::in_memory_with(|config| {
        config.limits.outbox_bytes_max = ByteSize::kib(64);
    })
    .await;
    let mut flooding = Peer::login_narrow(&server, "flooding").await;
    let pings = masked(PING, &[b'x'; 125]).repeat(1_000);
    let mut attentive = Peer::login(&server, "attentive").await;
    while server.closed("slow_consumer").await == 0 {
        flooding.socket.try_write(&pings).await;
        assert_eq!(attentive.catch_up().await, []);
    }
}
