use std::{collections::VecDeque, sync::Mutex};

use axum::{Router, extract::Form, routing::get};
use tokio::net::TcpListener;

use super::*;
use crate::{
    auth::revocation::Revocation as Entry,
    hub::{
        revocations::{NoticesMailbox, Register},
        revoked::{Claim, Refused},
    },
};

/// A feed with these entries, that gives out a few at a time.
struct Service {
    entries: Mutex<Vec<Entry>>,
    asked: Mutex<VecDeque<u64>>,
}

const PAGE: usize = 2;

#[derive(serde::Deserialize)]
struct Asked {
    after: u64,
}

impl Service {
    async fn start() -> (Arc<Self>, Uri) {
        let service = Arc::new(Self { entries: Mutex::default(), asked: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers = Arc::clone(&service);
        let answer = async move |Form(asked): Form<Asked>| axum::Json(answers.page(asked.after));
        let router = Router::new().route("/v1/revocations", get(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (service, format!("http://{address}/.well-known/jwks.json").parse().unwrap())
    }

    fn page(&self, after: u64) -> Page {
        self.asked.lock().unwrap().push_back(after);
        let entries = self.entries.lock().unwrap();
        let revocations = entries.iter().filter(|it| it.number > after).take(PAGE);
        Page {
            revocations: revocations.cloned().collect(),
            last: entries.last().map_or(0, |newest| newest.number),
        }
    }

    fn revoke(&self, number: u64, what: Revoked) {
        let revoked_at_ms = clock::unix_ms();
        self.entries.lock().unwrap().push(Entry { number, revoked_at_ms, what });
    }

    fn asked(&self) -> Vec<u64> {
        self.asked.lock().unwrap().drain(..).collect()
    }
}

fn session(id: u64) -> Revoked {
    Revoked::Session { session: format!("session {id}") }
}

/// A hub of one shard, and whatever keys it was told to forget.
struct Hub {
    register: Arc<Register>,
    mailbox: NoticesMailbox,
    forgotten: Arc<Mutex<Vec<String>>>,
}

type ForgetKey = Box<dyn Fn(&str)>;

fn follower(feed: Feed) -> (Follower<ForgetKey>, Hub) {
    let register = Arc::new(Register::new(REVOCATION_KEPT));
    let (revoker, mut mailboxes) = Revoker::new(Arc::clone(&register), 1);
    let forgotten: Arc<Mutex<Vec<String>>> = Arc::default();
    let keys = Arc::clone(&forgotten);
    let forget_key: ForgetKey = Box::new(move |key| keys.lock().unwrap().push(key.to_owned()));
    let follower = Follower::new(feed, revoker, forget_key, Arc::default());
    (follower, Hub { register, mailbox: mailboxes.remove(0), forgotten })
}

impl Hub {
    fn check(&self, session: u64) -> Result<(), Refused> {
        let session = format!("session {session}");
        let credential = self.register.credential("anna", Some(&session), Some(1), "key");
        self.register.check(&Claim { credential, issued_at_s: Some(clock::unix_s()) })
    }

    /// What the shard was told so far: as many batches.
    fn told(&mut self) -> usize {
        std::iter::from_fn(|| self.mailbox.try_recv().ok()).count()
    }
}

#[tokio::test]
async fn a_feed_is_read_page_by_page_and_then_only_what_is_new() {
    let (service, jwks) = Service::start().await;
    let feed = Feed::at(beside(&jwks).unwrap());
    let (mut follower, mut hub) = follower(feed);
    for number in 1..=5 {
        service.revoke(number, session(number));
    }
    follower.read_on().await.unwrap();
    assert_eq!(service.asked(), [0, 2, 4]);
    assert_eq!(hub.told(), 3);
    assert!((1..=5).all(|id| hub.check(id) == Err(Refused::Revoked)));
    assert_eq!(hub.check(6), Ok(()));

    follower.read_on().await.unwrap();
    assert_eq!((service.asked(), hub.told()), (vec![5], 0), "no news, and nobody is told");
    service.revoke(9, Revoked::Key { key: "key".to_owned() });
    follower.read_on().await.unwrap();
    assert_eq!((service.asked(), hub.told()), (vec![5], 1));
    assert_eq!(hub.check(6), Err(Refused::Stale));
    assert_eq!(*hub.forgotten.lock().unwrap(), ["key"]);
    assert_eq!(follower.metrics.revocations.get(), 6);
}

#[tokio::test]
async fn a_feed_that_began_anew_is_read_from_its_beginning_and_takes_nothing_back() {
    let (service, jwks) = Service::start().await;
    let feed = Feed::at(beside(&jwks).unwrap());
    let (mut follower, hub) = follower(feed);
    for number in 7..=8 {
        service.revoke(number, session(number));
    }
    follower.read_on().await.unwrap();
    service.entries.lock().unwrap().clear();
    service.revoke(1, session(1));
    service.asked();
    follower.read_on().await.unwrap();
    assert_eq!(service.asked(), [8, 0]);
    assert!([1, 7, 8].into_iter().all(|id| hub.check(id) == Err(Refused::Revoked)));
}

#[tokio::test]
async fn what_is_known_stays_while_the_feed_cannot_be_read() {
    let (service, jwks) = Service::start().await;
    let feed = Feed::at(beside(&jwks).unwrap());
    let (mut follower, hub) = follower(feed);
    service.revoke(3, session(3));
    follower.read_on().await.unwrap();
    // One whose numbers do not ascend would be read for ever.
    for number in [5, 4] {
        service.revoke(number, session(number));
    }
    assert!(matches!(follower.read_on().await, Err(FeedError::Malformed)));
    assert_eq!(hub.check(3), Err(Refused::Revoked));
    assert_eq!(hub.check(5), Ok(()), "what cannot be understood is not applied in part");
    follower.catch_up().await;
    assert_eq!(follower.metrics.revocation_feed_errors.get(), 1);
}

#[tokio::test]
async fn an_issuer_without_a_feed_is_told_from_one_that_is_down() {
    let (_service, jwks) = Service::start().await;
    let nowhere: Uri = jwks.to_string().replace(".well-known", "other").parse().unwrap();
    let error = Feed::at(nowhere).read(0).await.unwrap_err();
    assert!(matches!(error, FeedError::Absent(_)), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let down = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let error = Feed::at(down).read(0).await.unwrap_err();
    assert!(matches!(error, FeedError::Fetch(FetchError::Unreachable { .. })), "{error}");
}

#[test]
fn a_feed_is_beside_the_keys() {
    let feed = |jwks: &str| beside(&jwks.parse().unwrap()).map(|url| url.to_string());
    assert_eq!(
        feed("https://id.example.com:444/some/keys?x=1").unwrap(),
        "https://id.example.com:444/v1/revocations"
    );
    let with = |url: &str| with_after(&url.parse().unwrap(), 7).unwrap().to_string();
    assert_eq!(with("http://a/v1/revocations"), "http://a/v1/revocations?after=7");
    assert_eq!(with("http://a/feed?of=x"), "http://a/feed?of=x&after=7");
}

#[test]
fn a_feed_that_fails_is_asked_less_often_and_one_that_is_busy_is_not() {
    let mut pause = REVOCATION_INTERVAL;
    for _ in 0..10 {
        let busy = ServiceError::Overloaded { retry_after: Duration::ZERO };
        assert_eq!(pause_after(&busy.into(), pause), REVOCATION_INTERVAL);
        pause = pause_after(&FeedError::Malformed, pause);
    }
    assert_eq!(pause, REVOCATION_PAUSE_MAX);
}

#[tokio::test]
async fn a_feed_without_an_end_holds_nobody_up() {
    let (service, jwks) = Service::start().await;
    let (mut follower, mut hub) = follower(Feed::at(beside(&jwks).unwrap()));
    let attempt = REVOCATION_PAGES_PER_READ_MAX as u64 * PAGE as u64;
    for number in 1..=2 * attempt {
        service.revoke(number, session(number));
    }
    for first in [0, attempt] {
        {
            let reading = follower.read_on();
            tokio::pin!(reading);
            loop {
                tokio::select! {
                    read = &mut reading => break read.unwrap(),
                    Some(_) = hub.mailbox.recv() => {}
                }
            }
        }
        let asked = service.asked();
        assert_eq!((asked[0], asked.len()), (first, REVOCATION_PAGES_PER_READ_MAX));
    }
    assert_eq!(hub.check(2 * attempt), Err(Refused::Revoked));
}
