use std::collections::BTreeMap;

use super::*;
use crate::server::talk::tests::{Asked, stand_in};

/// A channel as it should be, which hangs up before or after it has done what it was asked, at times.
#[derive(Default)]
struct Room {
    room: usize,
    /// By their keys, in their order.
    messages: Vec<(String, String)>,
    asked: u64,
    /// What it forgets: that a key was there, or that there is no room.
    forgets_keys: bool,
    forgets_room: bool,
}

impl Room {
    fn answer(&mut self, asked: &Asked) -> Option<(u16, String)> {
        self.asked += 1;
        if self.asked.is_multiple_of(7) {
            return None;
        }
        let key = asked.header("idempotency-key")?.to_owned();
        let body: Value = serde_json::from_str(&asked.body).unwrap();
        let place = self.messages.iter().position(|it| it.0 == key);
        let said = match place.filter(|_| !self.forgets_keys) {
            Some(place) => (200, json!({ "sequence": place + 1 })),
            None if self.messages.len() >= self.room && !self.forgets_room => {
                (409, json!({ "name": EXHAUSTED }))
            }
            None => {
                self.messages.push((key, body["body"].as_str()?.to_owned()));
                (201, json!({ "sequence": self.messages.len() }))
            }
        };
        (!self.asked.is_multiple_of(5)).then(|| (said.0, said.1.to_string()))
    }
}

/// Forty posts for 25 places, from four posters.
async fn judged(room: Room) -> (Ledger, u64, verdict::Verdict) {
    let quota = room.room as u64;
    let room = Arc::new(Mutex::new(room));
    let asked = Arc::clone(&room);
    let address = stand_in(move |it| asked.lock().unwrap().answer(it)).await;
    let shared = Arc::new(Shared::new(40));
    let mut posters = JoinSet::new();
    for _ in 0..4 {
        posters.spawn(post_all(Arc::clone(&shared), Talk::new(address, "token")));
    }
    while let Some(ended) = posters.join_next().await {
        ended.unwrap().unwrap();
    }
    let history: Vec<_> =
        (1..).zip(room.lock().unwrap().messages.iter().map(|it| it.1.clone())).collect();
    let ledger = shared.ledger().clone();
    let verdict = ledger.judge(&history, quota);
    (ledger, shared.retries.load(Ordering::Relaxed), verdict)
}

#[tokio::test]
async fn posters_get_a_last_word_from_a_server_that_hangs_up() {
    let (ledger, retries, verdict) = judged(Room { room: 25, ..Room::default() }).await;
    assert_eq!(verdict, verdict::Verdict::default());
    assert_eq!((ledger.accepted(), ledger.refused()), (25, 15));
    assert!(retries > 5, "{retries}");
}

#[tokio::test]
async fn a_server_that_forgets_a_key_or_its_quota_is_found_out() {
    let forgets_keys = Room { room: 25, forgets_keys: true, ..Room::default() };
    let (_, _, verdict) = judged(forgets_keys).await;
    assert!(verdict.evidence.iter().any(|it| it.contains("was accepted as")), "{verdict:?}");
    let forgets_room = Room { room: 25, forgets_room: true, ..Room::default() };
    let (_, _, verdict) = judged(forgets_room).await;
    assert_eq!(verdict.evidence, ["history has 40 messages, and not 25"]);
}

#[tokio::test]
async fn an_answer_that_no_post_should_get_ends_the_run() {
    let address = stand_in(|_| Some((403, json!({ "name": "forbidden" }).to_string()))).await;
    let shared = Arc::new(Shared::new(1));
    let error = post_all(shared, Talk::new(address, "token")).await.unwrap_err();
    assert!(error.to_string().contains("403 and not 201"), "{error}");
}

#[test]
fn kills_are_spread_over_the_whole_run() {
    let moments = moments(200, 15_000, &mut SmallRng::seed_from_u64(7));
    assert!(moments.is_sorted() && moments[0] < 500 && *moments.last().unwrap() > 14_500);
    // Other seeds, other moments.
    let others = super::moments(200, 15_000, &mut SmallRng::seed_from_u64(8));
    assert_ne!(moments, others);
    let counts: BTreeMap<bool, usize> = moments.iter().fold(BTreeMap::new(), |mut counts, it| {
        *counts.entry(*it < 10_000).or_default() += 1;
        counts
    });
    assert!(counts[&true] > 100 && counts[&false] > 40, "{counts:?}");
}
