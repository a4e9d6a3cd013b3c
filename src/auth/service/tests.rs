use std::net::Ipv4Addr;

use bytesize::ByteSize;

use super::*;
use crate::{
    auth::{password::Cost, revocation::Revoked, token::Claims},
    engine::rows::memory::MemoryRows,
};

mod accounts;
mod admission;
mod keys;
mod model;
mod sessions;

const NOW_S: u64 = 1_800_000_000;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PASSWORD: &str = "correct horse";

fn settings() -> Settings {
    let cost = Cost { memory: ByteSize::kib(64), passes: 1, lanes: 1 };
    Settings {
        workers_max: 1,
        cost,
        attempts_per_address_burst: 10_000,
        attempts_per_account_burst: 10_000,
        ..Settings::default()
    }
}

/// A service on a data directory whose clock the test turns, and its housekeeping.
struct Service {
    auth: Auth,
    housekeeping: Housekeeping,
}

impl std::ops::Deref for Service {
    type Target = Auth;

    fn deref(&self) -> &Auth {
        &self.auth
    }
}

impl Service {
    fn open(settings: Settings, dir: &Path) -> Self {
        Self::open_at(settings, dir, NOW_S)
    }

    fn open_at(settings: Settings, dir: &Path, now_s: u64) -> Self {
        let (auth, housekeeping) = Auth::open(settings, dir, None, || {}, now_s).unwrap();
        Self { auth, housekeeping }
    }

    /// One of a cluster.
    fn open_node(settings: Settings, dir: &Path, rows: &MemoryRows) -> Self {
        let rows: Arc<dyn Rows> = Arc::new(rows.clone());
        let (auth, housekeeping) = Auth::open(settings, dir, Some(rows), || {}, NOW_S).unwrap();
        Self { auth, housekeeping }
    }

    /// A service in which `anna` has an account.
    async fn with_anna(settings: Settings, dir: &Path) -> Self {
        let service = Self::open(settings, dir);
        service.register("anna", PASSWORD.to_owned(), None, HERE, NOW_S).await.unwrap();
        service
    }

    async fn anna(&self, now_s: u64) -> Tokens {
        self.log_in("anna", PASSWORD.to_owned(), HERE, now_s).await.unwrap()
    }

    fn claims(&self, tokens: &Tokens, now_s: u64) -> Claims {
        self.verifier().verify(&tokens.access_token, now_s).unwrap()
    }

    /// What the whole feed says.
    async fn revoked(&self) -> Vec<Revoked> {
        let page = self.revocations(0).await.unwrap();
        page.revocations.into_iter().map(|entry| entry.what).collect()
    }
}

/// What is written to the log meanwhile, on this thread.
struct Log {
    written: Arc<std::sync::Mutex<Vec<u8>>>,
    _default: tracing::subscriber::DefaultGuard,
}

impl Log {
    fn read() -> Self {
        let written = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = Arc::clone(&written);
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || Sink(Arc::clone(&sink)))
            .finish();
        Self { written, _default: tracing::subscriber::set_default(subscriber) }
    }

    fn text(&self) -> String {
        String::from_utf8(self.written.lock().unwrap().clone()).unwrap()
    }

    /// Lines for the audit that say this.
    fn audited(&self, what: &str) -> usize {
        let text = self.text();
        text.lines().filter(|line| line.contains("hubbub::audit") && line.contains(what)).count()
    }
}

struct Sink(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn session(id: Option<String>) -> Revoked {
    Revoked::Session { session: id.unwrap() }
}
