use super::*;
use crate::engine::jetstream::records::tests::{nats, node};

const SOON: Duration = Duration::from_secs(10);

async fn next(inbox: &mut mpsc::Receiver<Inbound>) -> Inbound {
    timeout(SOON, inbox.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn what_a_node_tells_all_others_hear_and_it_does_not() {
    let Some(nats) = nats() else { return };
    let [one, two, three] =
        [node(&nats).await, node(&nats).await, node(&nats).await].map(|it| it.nodes.clone());
    let mut inboxes = [one.inbox(), two.inbox(), three.inbox()];
    for n in 0..100_u8 {
        one.cast(Bytes::copy_from_slice(&[n]));
    }
    for inbox in &mut inboxes[1..] {
        for n in 0..100 {
            let inbound = next(inbox).await;
            assert_eq!((inbound.from, &inbound.message[..]), (one.node(), &[n][..]));
            assert!(inbound.reply.is_none());
        }
    }
    two.cast(Bytes::from_static(b"last"));
    assert_eq!(next(&mut inboxes[0]).await.from, two.node(), "its own casts did not come");
}

#[tokio::test]
async fn a_call_is_answered_or_it_says_why_not() {
    let Some(nats) = nats() else { return };
    let [one, two] = [node(&nats).await, node(&nats).await].map(|it| it.nodes.clone());
    let call = |within| one.call(two.node(), Bytes::from_static(b"ask"), within);
    let short = Duration::from_millis(100);
    assert_eq!(call(short).await, Err(CallError::NoAnswer), "nobody reads the inbox");

    let mut inbox = two.inbox();
    let (answer, ()) = tokio::join!(call(SOON), async {
        let inbound = next(&mut inbox).await;
        assert_eq!((inbound.from, &inbound.message[..]), (one.node(), &b"ask"[..]));
        inbound.reply.unwrap().send(Bytes::from_static(b"answer")).unwrap();
    });
    assert_eq!(answer, Ok(Bytes::from_static(b"answer")));

    assert_eq!(call(short).await, Err(CallError::NoAnswer));
    drop(next(&mut inbox).await);

    // The last who asked for the inbox is its reader.
    let mut later = two.inbox();
    let (answer, ()) = tokio::join!(call(SOON), async {
        let inbound = next(&mut later).await;
        inbound.reply.unwrap().send(Bytes::new()).unwrap();
    });
    assert_eq!(answer, Ok(Bytes::new()));
    assert!(inbox.recv().await.is_none());

    let nobody = NodeId(two.node().0 ^ 1);
    assert_eq!(one.call(nobody, Bytes::new(), SOON).await, Err(CallError::Gone));
}
