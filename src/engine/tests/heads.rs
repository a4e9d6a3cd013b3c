//! The contract of heads: where logs end.

use super::*;

fn at(chain: &Appender) -> LogEnd {
    LogEnd::At(chain.head.position())
}

pub(in super::super) async fn each_log_that_is_asked_for_has_its_own_end<E: Engine>(engine: &E) {
    assert_eq!(engine.heads(Vec::new()).await.unwrap(), []);
    assert_eq!(engine.heads(vec![LOBBY]).await.unwrap(), [LogEnd::Empty]);
    let (mut lobby, mut attic) = (Appender::new(LOBBY), Appender::new(ATTIC));
    attic.head = Head::empty(Epoch(1_700_000_000));
    for count in [3, 1, 200] {
        lobby.append(engine, count).await;
        attic.append(engine, count + 1).await;
        let asked = vec![ATTIC, ChannelId(9), LOBBY, ATTIC];
        let expected = [at(&attic), LogEnd::Empty, at(&lobby), at(&attic)];
        assert_eq!(engine.heads(asked).await.unwrap(), expected);
    }
    assert_eq!(lobby.head.sequence, Sequence(204));
}

pub(in super::super) async fn a_head_stays_when_what_is_older_is_dropped<E: Engine>(engine: &E) {
    let mut chain = Appender::new(LOBBY);
    for _ in 0..3 {
        chain.append(engine, 2).await;
    }
    engine.trim(LOBBY, Sequence(u64::MAX)).await.unwrap();
    assert_eq!(engine.heads(vec![LOBBY]).await.unwrap(), [at(&chain)]);
}

pub(in super::super) async fn a_head_is_as_new_as_the_last_answer<E: Engine>(engine: &E) {
    let mut chain = Appender::new(LOBBY);
    for n in 0..200 {
        chain.append(engine, n % 3 + 1).await;
        assert_eq!(engine.heads(vec![LOBBY]).await.unwrap(), [at(&chain)]);
    }
}
