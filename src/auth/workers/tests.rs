use std::sync::{
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use bytesize::ByteSize;

use super::*;
use crate::metrics::tally::Counter;

const SMALL: Cost = Cost { memory: ByteSize::kib(64), passes: 1, lanes: 1 };
const ONE: Options = Options { cost: SMALL, min: 1, max: 1 };
/// Long enough for anything that happens at all.
const SOON: Duration = Duration::from_secs(20);

type Reply = oneshot::Receiver<Result<Option<Answer>, WorkError>>;

fn password() -> Password {
    Password::new("correct horse".to_owned()).unwrap()
}

/// A pool whose workers start to work when the sender is dropped.
fn held_pool(options: Options, pace: Pace) -> (Workers, mpsc::SyncSender<()>) {
    let (release, held) = mpsc::sync_channel::<()>(0);
    let held = Mutex::new(held);
    let workers = Workers::start_paced(options, pace, move || {
        let _ = held.lock().unwrap().recv();
    });
    (workers.unwrap(), release)
}

fn job(class: Option<Class>) -> (Job, Reply) {
    let (reply, answer) = oneshot::channel();
    (Job { password: password(), task: Task::hash(), class, reply }, answer)
}

impl Workers {
    /// Puts in work without waiting for its answer.
    fn put(&self, class: Class) -> Result<Reply, WorkError> {
        let (job, answer) = job(Some(class));
        self.shared.put(job, Instant::now())?;
        Ok(answer)
    }

    fn counted(&self, numbers: impl Fn(&Stats) -> &stats::ByClass<Counter>) -> (u64, u64) {
        let stats = self.stats();
        let numbers = numbers(&stats);
        (numbers.of(Class::Known).get(), numbers.of(Class::Stranger).get())
    }

    fn waiting(&self) -> (u64, u64) {
        let waiting = &self.stats().waiting;
        (waiting.of(Class::Known).get(), waiting.of(Class::Stranger).get())
    }
}

fn is_hashed(answer: &Result<Option<Answer>, WorkError>) -> bool {
    matches!(answer, Ok(Some(Answer::Hashed(_))))
}

fn is_refused(answer: &Result<Option<Answer>, WorkError>) -> bool {
    matches!(answer, Err(WorkError::Overloaded { .. }))
}

#[tokio::test]
async fn what_was_hashed_verifies() {
    let workers = Workers::start(Options { min: 2, max: 2, ..ONE }, || {}).unwrap();
    let stored = workers.hash(password(), Class::Stranger).await.unwrap();
    let verdict = workers.verify(password(), Some(stored.clone()), Class::Known).await;
    assert_eq!(verdict, Ok(Verdict { matches: true, outdated: false }));
    let other = Password::new("wrong horse!".to_owned()).unwrap();
    let verdict = workers.verify(other, Some(stored), Class::Stranger).await;
    assert_eq!(verdict, Ok(Verdict { matches: false, outdated: false }));
    assert_eq!(workers.counted(|stats| &stats.hashed), (0, 1));
    assert_eq!(workers.counted(|stats| &stats.verified), (1, 1));
    let stats = workers.stats();
    assert_eq!(stats.hash_time.buckets().iter().sum::<u64>(), 3);
    assert_eq!(stats.wait_time.buckets().iter().sum::<u64>(), 3);
}

#[tokio::test]
async fn nobody_has_a_password_not_even_the_dummy() {
    let workers = Workers::start(ONE, || {}).unwrap();
    let dummy = Password::new("the password of nobody".to_owned()).unwrap();
    for class in [Class::Known, Class::Stranger] {
        let verdict = workers.verify(dummy.clone(), None, class).await;
        assert_eq!(verdict, Ok(Verdict { matches: false, outdated: false }));
    }
    assert_eq!(workers.counted(|stats| &stats.verified), (1, 1), "and it was compared each time");
}

#[test]
fn the_dummy_has_the_current_cost_and_the_form_of_any_other() {
    let cost = Cost { memory: ByteSize::kib(96), passes: 3, lanes: 1 };
    let workers = Workers::start(Options { cost, ..ONE }, || {}).unwrap();
    let other = password::hash(&password(), &rand::random(), cost, &mut Memory::default()).unwrap();
    assert!(workers.dummy_hash.starts_with("$argon2id$v=19$m=96,t=3,p=1$"));
    assert_eq!(workers.dummy_hash.len(), other.len());
}

#[tokio::test]
async fn an_outdated_hash_is_made_anew_when_a_worker_is_free() {
    let old = Cost { passes: 2, ..SMALL };
    let stored = password::hash(&password(), &[7; 16], old, &mut Memory::default()).unwrap();
    let workers = Workers::start(ONE, || {}).unwrap();
    let verdict = workers.verify(password(), Some(stored), Class::Known).await;
    assert_eq!(verdict, Ok(Verdict { matches: true, outdated: true }));
    let stored = workers.rehash(password()).await.unwrap().unwrap();
    let verdict = workers.verify(password(), Some(stored), Class::Known).await;
    assert_eq!(verdict, Ok(Verdict { matches: true, outdated: false }));
    assert_eq!(workers.stats().rehashed.get(), 1);
}

#[tokio::test]
async fn an_outdated_hash_stays_when_anything_else_waits() {
    let (workers, release) = held_pool(ONE, Pace::default());
    // It comes first, and yields to what comes after it.
    let (spare, spare_answer) = job(None);
    workers.shared.put(spare, Instant::now()).unwrap();
    let answer = workers.put(Class::Stranger).unwrap();
    // And it does not come behind anything.
    assert_eq!(workers.rehash(password()).await, Ok(None));
    drop(release);
    assert!(matches!(spare_answer.await, Ok(Ok(None))));
    assert!(is_hashed(&answer.await.unwrap()));
    assert_eq!(workers.stats().rehashed.get(), 0);
    assert_eq!(workers.counted(|stats| &stats.refused), (0, 0));
    assert_eq!(workers.counted(|stats| &stats.expired), (0, 0));
}

#[tokio::test]
async fn a_full_mailbox_refuses_at_once() {
    let (workers, release) = held_pool(ONE, Pace::default());
    let answers: Vec<Reply> = (0..=limits::AUTH_MAILBOX_PER_WORKER_MAX)
        .map(|_| workers.put(Class::Stranger).unwrap())
        .collect();
    let refused = workers.put(Class::Stranger);
    assert!(matches!(refused, Err(WorkError::Overloaded { .. })), "{refused:?}");
    assert_eq!(workers.counted(|stats| &stats.refused), (0, 1));
    assert_eq!(workers.waiting(), (0, answers.len() as u64));
    drop(release);
    for answer in answers {
        assert!(is_hashed(&answer.await.unwrap()));
    }
    assert_eq!(workers.waiting(), (0, 0));
}

#[tokio::test]
async fn a_pool_has_room_until_there_is_a_place_for_nobody_of_either_class() {
    let (workers, release) = held_pool(ONE, Pace::default());
    let mut answers = Vec::new();
    for class in [Class::Stranger, Class::Known] {
        assert!(workers.check_room().is_ok(), "known work replaces strangers");
        while let Ok(answer) = workers.put(class) {
            answers.push(answer);
        }
    }
    let refused = workers.check_room();
    assert!(matches!(refused, Err(WorkError::Overloaded { .. })), "{refused:?}");
    assert!(workers.put(Class::Stranger).is_err());
    drop(release);
    for answer in answers {
        let answer = answer.await.unwrap();
        assert!(is_hashed(&answer) || is_refused(&answer));
    }
    assert!(workers.check_room().is_ok());
}

#[tokio::test]
async fn known_work_replaces_the_youngest_stranger_and_goes_first() {
    let (workers, release) = held_pool(ONE, Pace::default());
    let mut strangers: Vec<Reply> = (0..=limits::AUTH_MAILBOX_PER_WORKER_MAX)
        .map(|_| workers.put(Class::Stranger).unwrap())
        .collect();
    let known = workers.put(Class::Known).unwrap();
    assert!(is_refused(&strangers.pop().unwrap().try_recv().unwrap()));
    assert!(strangers.iter_mut().all(|answer| answer.try_recv().is_err()), "only the youngest");
    assert_eq!(workers.counted(|stats| &stats.refused), (0, 1));
    drop(release);
    assert!(is_hashed(&known.await.unwrap()));
    for answer in strangers {
        assert!(is_hashed(&answer.await.unwrap()));
    }
    assert_eq!(workers.counted(|stats| &stats.hashed).0, 1);
}

#[tokio::test]
async fn slow_hashes_fill_the_mailbox_sooner() {
    let (workers, release) = held_pool(ONE, Pace::default());
    workers.shared.lock().hash_time = Duration::from_millis(400);
    let _answers: Vec<Reply> = (0..3).map(|_| workers.put(Class::Stranger).unwrap()).collect();
    let refused = workers.put(Class::Stranger);
    assert!(matches!(refused, Err(WorkError::Overloaded { .. })), "{refused:?}");
    drop(release);
}

#[tokio::test]
async fn expired_and_abandoned_work_is_dropped_unhashed() {
    let (workers, release) = held_pool(ONE, Pace::default());
    let (expired, expired_answer) = job(Some(Class::Stranger));
    let long_ago = Instant::now().checked_sub(limits::AUTH_DEADLINE * 2).unwrap();
    workers.shared.put(expired, long_ago).unwrap();
    drop(workers.put(Class::Known).unwrap());
    drop(release);
    assert!(is_refused(&expired_answer.await.unwrap()));
    let last = workers.put(Class::Stranger).unwrap();
    assert!(is_hashed(&last.await.unwrap()));
    assert_eq!(workers.counted(|stats| &stats.expired), (1, 1));
    assert_eq!(workers.counted(|stats| &stats.hashed), (0, 1));
    assert_eq!(workers.shared.lock().busy, 0);
}

#[test]
fn who_gives_up_waiting_is_not_hashed() {
    let (workers, release) = held_pool(ONE, Pace::default());
    // The future of a request that ends because its client is gone.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut asked = Box::pin(workers.hash(password(), Class::Known));
        std::future::poll_fn(|context| {
            assert!(asked.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
    });
    assert_eq!(workers.waiting(), (1, 0));
    let last = workers.put(Class::Stranger).unwrap();
    drop(release);
    assert!(is_hashed(&last.blocking_recv().unwrap()));
    assert_eq!(workers.counted(|stats| &stats.expired), (1, 0));
    assert_eq!(workers.counted(|stats| &stats.hashed), (0, 1));
}

#[tokio::test]
async fn a_pool_that_stops_answers_what_waits() {
    let (workers, release) = held_pool(ONE, Pace::default());
    let answer = workers.put(Class::Stranger).unwrap();
    let shared = Arc::clone(&workers.shared);
    drop(release);
    drop(workers);
    // Hashed before the stop, or dropped by it; never left waiting.
    assert!(
        answer.await.is_err_and(|_| true) || shared.stats.hashed.of(Class::Stranger).get() == 1
    );
    let after = shared.put(job(Some(Class::Stranger)).0, Instant::now());
    assert_eq!(after, Err(WorkError::Stopped));
    assert!(shared.lock().threads.is_empty());
}

#[tokio::test]
async fn the_pool_grows_by_one_when_work_waits_and_never_beyond_its_bound() {
    let pace = Pace { grow_after: Duration::ZERO, ..Pace::default() };
    let (release, held) = mpsc::sync_channel::<()>(0);
    let (held, started) = (Mutex::new(held), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&started);
    let options = Options { min: 1, max: 3, ..ONE };
    let workers = Workers::start_paced(options, pace, move || {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            let _ = held.lock().unwrap().recv();
        }
    })
    .unwrap();
    let answers: Vec<Reply> = (0..20).map(|_| workers.put(Class::Stranger).unwrap()).collect();
    assert_eq!(workers.stats().workers.get(), 1);
    drop(release);
    for answer in answers {
        assert!(is_hashed(&answer.await.unwrap()));
    }
    assert_eq!(workers.stats().workers.get(), 3);
    drop(workers);
    assert_eq!(started.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn the_pool_does_not_grow_for_work_that_waits_a_little() {
    let pace = Pace { grow_after: SOON, ..Pace::default() };
    let (workers, release) = held_pool(Options { min: 1, max: 3, ..ONE }, pace);
    let answers: Vec<Reply> = (0..20).map(|_| workers.put(Class::Stranger).unwrap()).collect();
    drop(release);
    for answer in answers {
        assert!(is_hashed(&answer.await.unwrap()));
    }
    assert_eq!(workers.stats().workers.get(), 1);
}

#[test]
fn growth_is_paced() {
    let (workers, release) = held_pool(Options { min: 1, max: 9, ..ONE }, Pace::default());
    let _answers: Vec<Reply> = (0..20).map(|_| workers.put(Class::Stranger).unwrap()).collect();
    let grow_after = limits::AUTH_GROW_AFTER;
    let at = |times: u32| Instant::now() + grow_after * times + Duration::from_millis(1);
    let mut state = workers.shared.lock();
    let mut grows = |now| workers.shared.growth(&mut state, now).is_some();
    let (first, second) = (at(1), at(3));
    assert!(!grows(first - grow_after));
    assert!(grows(first));
    assert!(!grows(first));
    assert!(!grows(first + grow_after / 2));
    assert!(grows(second));
    // These have no threads.
    state.workers -= 2;
    drop(state);
    drop(release);
}

/// Says when its thread ends.
struct Farewell(mpsc::SyncSender<()>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

thread_local! {
    static FAREWELL: std::cell::RefCell<Option<Farewell>> = const { std::cell::RefCell::new(None) };
}

#[test]
fn a_worker_that_has_nothing_to_do_ends_and_its_memory_with_it() {
    let pace = Pace { grow_after: Duration::ZERO, idle_max: Duration::from_millis(5) };
    let (farewell, farewells) = mpsc::sync_channel(9);
    let (release, held) = mpsc::sync_channel::<()>(0);
    let held = Mutex::new(held);
    let workers = Workers::start_paced(Options { min: 1, max: 3, ..ONE }, pace, move || {
        FAREWELL.set(Some(Farewell(farewell.clone())));
        let _ = held.lock().unwrap().recv();
    })
    .unwrap();
    let answers: Vec<Reply> = (0..20).map(|_| workers.put(Class::Stranger).unwrap()).collect();
    drop(release);
    for answer in answers {
        assert!(is_hashed(&answer.blocking_recv().unwrap()));
    }
    for _ in 0..2 {
        farewells.recv_timeout(SOON).unwrap();
    }
    assert_eq!(workers.stats().workers.get(), 1);
    assert!(workers.stats().memory_bytes.get() <= 64 * 1024);
    // The last one stays, and works.
    assert!(farewells.recv_timeout(Duration::from_millis(50)).is_err());
    assert!(is_hashed(&workers.put(Class::Known).unwrap().blocking_recv().unwrap()));
    assert_eq!(workers.stats().memory_bytes.get(), 64 * 1024);
}

#[tokio::test]
async fn memory_is_that_of_a_hash_for_each_worker_and_is_kept_between_hashes() {
    let workers = Workers::start(Options { min: 2, max: 2, ..ONE }, || {}).unwrap();
    let bytes = || workers.stats().memory_bytes.get();
    assert_eq!(bytes(), 0, "none before the first hash");
    let costly = Cost { memory: ByteSize::mib(1), ..SMALL };
    let stored = password::hash(&password(), &[7; 16], costly, &mut Memory::default()).unwrap();
    for _ in 0..20 {
        let hashes = [
            workers.put(Class::Stranger).unwrap(),
            workers.put(Class::Stranger).unwrap(),
            workers.put(Class::Stranger).unwrap(),
        ];
        workers.verify(password(), Some(stored.clone()), Class::Known).await.unwrap();
        for answer in hashes {
            assert!(is_hashed(&answer.await.unwrap()));
        }
        assert!((1..=2).contains(&(bytes() / (64 * 1024))), "{}", bytes());
        assert_eq!(bytes() % (64 * 1024), 0);
    }
}

#[tokio::test]
async fn a_stored_hash_that_is_unusable_is_an_error_and_costs_no_memory() {
    let workers = Workers::start(ONE, || {}).unwrap();
    let huge =
        "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    for (stored, error) in [(huge, HashError::CostTooHigh), ("hunter22", HashError::Malformed)] {
        let verdict = workers.verify(password(), Some(stored.to_owned()), Class::Known).await;
        assert_eq!(verdict, Err(WorkError::Hash(error)));
    }
    assert_eq!(workers.stats().memory_bytes.get(), 0);
    assert_eq!(workers.counted(|stats| &stats.failed), (2, 0));
    assert_eq!(workers.shared.lock().busy, 0);
}

#[test]
fn hints_to_retry_are_spread_over_as_long_again_as_the_wait() {
    for (wait_ms, least_ms) in [(0, 1000), (400, 1000), (3000, 3000)] {
        let least = Duration::from_millis(least_ms);
        let hints: Vec<Duration> =
            (0..1000).map(|_| retry_after(Duration::from_millis(wait_ms))).collect();
        assert!(hints.iter().all(|hint| (least..least * 2).contains(hint)));
        // Both halves of the range are used.
        let early = hints.iter().filter(|hint| **hint < least * 3 / 2).count();
        assert!((300..700).contains(&early), "{early}");
    }
}

#[test]
fn a_pool_has_one_worker_at_least_and_not_more_than_the_bound() {
    let max = limits::AUTH_WORKERS_MAX;
    for (min, max) in [(0, 0), (0, 1), (2, 1), (1, max + 1)] {
        let refused = Workers::start(Options { min, max, ..ONE }, || {});
        assert!(matches!(refused, Err(StartError::Count { .. })), "{min} {max}");
    }
    let costly = Options { cost: Cost { memory: ByteSize::gib(4), ..SMALL }, ..ONE };
    assert!(matches!(Workers::start(costly, || {}), Err(StartError::Cost(_))));
}

#[test]
fn a_panic_leaves_nobody_counted_as_busy() {
    let workers = Workers::start(ONE, || {}).unwrap();
    workers.shared.lock().busy += 1;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _busy = Busy(&workers.shared);
        panic!("as a bug would");
    }));
    assert!(panicked.is_err());
    assert_eq!(workers.shared.lock().busy, 0);
}

#[test]
fn workers_are_niced_and_the_caller_is_not() {
    let priority = || rustix::process::getpriority_process(Some(rustix::thread::gettid()));
    let before = priority().unwrap();
    let (report, reported) = mpsc::sync_channel(1);
    let _workers = Workers::start(ONE, move || {
        let _ = report.send(priority());
    });
    assert_eq!(reported.recv().unwrap(), Ok(NICENESS));
    assert_eq!(priority(), Ok(before));
}
