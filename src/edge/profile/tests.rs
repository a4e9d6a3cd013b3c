use std::{
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use axum::{Router, body::Body, http::Request, routing::get};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard as AsyncMutexGuard};
use tower::ServiceExt as _;

use super::*;

/// How long anything may take that happens within milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// The tests share one process, and it has one profiler.
async fn one_test_at_a_time() -> AsyncMutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

async fn ask(query: &str) -> (u16, String) {
    let router = Router::new().route("/debug/profile", get(profile));
    let request = Request::get(format!("/debug/profile{query}")).body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// A thread that does nothing but use the CPU, until it is dropped.
struct Burner {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

#[inline(never)]
fn burn_until(stop: &AtomicBool) -> u64 {
    let mut number = 1_u64;
    while !stop.load(Ordering::Relaxed) {
        number = std::hint::black_box(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 1);
    }
    number
}

impl Burner {
    fn start(name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || burn_until(&is_stopped)).unwrap();
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The profiler, once no thread of an earlier request has it any more.
fn freed() -> MutexGuard<'static, ()> {
    let started = Instant::now();
    loop {
        match PROFILER.try_lock() {
            Ok(only) => return only,
            Err(_) => assert!(started.elapsed() < PATIENCE, "the profiler is still taken"),
        }
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_profile_names_the_thread_and_the_function_that_are_busy() {
    let _turn = one_test_at_a_time().await;
    let _burner = Burner::start("burner");
    let (status, stacks) = ask("?seconds=1&hz=499").await;
    assert_eq!(status, 200, "{stacks}");
    let is_burner = |line: &&str| line.starts_with("burner;") && line.contains("burn_until");
    let line = stacks.lines().find(is_burner).unwrap_or_else(|| panic!("not in {stacks}"));
    let (stack, count) = line.rsplit_once(' ').unwrap();
    assert!(count.parse::<u32>().unwrap() > 0, "{line}");
    let is_hash = |part: &str| {
        let digits = part.strip_prefix('h').unwrap_or_default();
        digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    assert!(!stack.split([':', ';']).any(is_hash), "a name with a hash: {stack}");
    let burns = stack.find("burn_until").unwrap();
    let begins = stack.find("std::").unwrap();
    assert!(begins < burns, "the outermost does not come first: {stack}");
    assert!(!stacks.contains("pprof") && !stacks.contains("perf_signal"), "{stacks}");
}

#[tokio::test]
async fn a_wish_out_of_bounds_is_a_bad_request() {
    let queries = [
        "?seconds=0",
        "?seconds=61",
        "?seconds=-1",
        "?seconds=soon",
        "?hz=0",
        "?hz=1000",
        "?hz=99.5",
        "?hertz=99",
        "?seconds=1&seconds=2",
    ];
    for query in queries {
        let (status, problem) = ask(query).await;
        assert_eq!(status, 400, "{query}");
        let problem: Value = serde_json::from_str(&problem).unwrap();
        assert_eq!(problem["name"], "bad_request", "{query}");
        assert!(problem["detail"].is_string(), "{query}: {problem}");
    }
    assert_eq!(Wish::default().check().map_err(|_| ()), Ok(()));
    assert_eq!(Wish { seconds: 60, hz: 999 }.check().map_err(|_| ()), Ok(()));
}

#[tokio::test]
async fn a_second_profile_is_busy_while_the_first_is_taken() {
    let _turn = one_test_at_a_time().await;
    let (hold, until_dropped) = sync_channel::<Infallible>(0);
    let (taken, is_taken) = oneshot::channel();
    let holder = std::thread::spawn(move || {
        let _only = freed();
        taken.send(()).unwrap();
        let _ = until_dropped.recv();
    });
    is_taken.await.unwrap();
    let (status, problem) = ask("?seconds=1").await;
    assert_eq!(status, 503, "{problem}");
    let problem: Value = serde_json::from_str(&problem).unwrap();
    assert_eq!(problem["name"], "busy");
    drop(hold);
    holder.join().unwrap();
    assert_eq!(ask("?seconds=1").await.0, 200);
}

#[test]
fn what_separates_frames_and_lines_is_no_part_of_a_name() {
    assert_eq!(frame("<[u8; 4] as Read>::read\n"), "<[u8, 4] as Read>::read ");
}
