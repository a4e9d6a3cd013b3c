//! Whatever order things happen in, on whichever process: no token of a session that is over gets
//! anything, and no session ends without a cause.

use proptest::prelude::*;

use super::*;
use crate::engine::rows::memory::Fault;

const SESSIONS_MAX: u32 = 3;

#[derive(Clone, Debug)]
enum Step {
    LogIn,
    Refresh { session: usize },
    Replay { session: usize, token: usize },
    Forge { session: usize },
    Revoke { session: usize, token: usize },
    RevokeByAccess { session: usize },
    Disable(bool),
    LogOut,
    ChangePassword { session: usize },
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    let index = || 0..8_usize;
    prop_oneof![
        4 => Just(Step::LogIn),
        8 => index().prop_map(|session| Step::Refresh { session }),
        3 => (index(), index()).prop_map(|(session, token)| Step::Replay { session, token }),
        2 => index().prop_map(|session| Step::Forge { session }),
        1 => (index(), index()).prop_map(|(session, token)| Step::Revoke { session, token }),
        1 => index().prop_map(|session| Step::RevokeByAccess { session }),
        1 => any::<bool>().prop_map(Step::Disable),
        1 => Just(Step::LogOut),
        1 => index().prop_map(|session| Step::ChangePassword { session }),
        1 => Just(Step::Tick),
    ]
}

/// A session as it should be.
struct Expected {
    live: bool,
    used_s: u64,
    id: String,
    access: String,
    /// All refresh tokens that it ever had. The last is the newest.
    refresh: Vec<String>,
}

struct Model {
    /// Two processes on one store, or two nodes of a cluster; steps alternate.
    services: [Service; 2],
    /// The ways of the two to the cluster's rows.
    ways: [MemoryRows; 2],
    now_s: u64,
    disabled: bool,
    passwords: u32,
    sessions: Vec<Expected>,
    /// What the feed should say.
    feed: Vec<Revoked>,
    subject: String,
    generation: u32,
    _dirs: [tempfile::TempDir; 2],
}

impl Model {
    async fn new(is_cluster: bool) -> Self {
        let dirs = [0, 1].map(|_| tempfile::tempdir().unwrap());
        let settings = Settings { sessions_per_user_max: SESSIONS_MAX, ..settings() };
        let way = MemoryRows::default();
        let ways = [way.another_node(), way];
        let open = |at: usize| {
            if is_cluster {
                Service::open_node(settings.clone(), dirs[at].path(), &ways[at])
            } else {
                Service::open(settings.clone(), dirs[0].path())
            }
        };
        let first = open(0);
        let made = first.register("anna", password(0), None, HERE, NOW_S).await.unwrap();
        let second = open(1);
        Self {
            services: [first, second],
            ways,
            now_s: NOW_S,
            disabled: false,
            passwords: 0,
            sessions: Vec::new(),
            feed: Vec::new(),
            subject: made.subject,
            generation: 1,
            _dirs: dirs,
        }
    }

    async fn take(&mut self, step: &Step) {
        // Each step has a second of its own, so that it is clear who rested longest.
        self.now_s += 1;
        self.services.swap(0, 1);
        let now_s = self.now_s;
        let [service, _] = &mut self.services;
        let count = self.sessions.len();
        let pick = |index: &usize| index.checked_rem(count);
        match step {
            Step::LogIn => self.log_in().await,
            Step::Refresh { session } => {
                let Some(session) = pick(session) else { return };
                let session = &mut self.sessions[session];
                let token = session.refresh.last().unwrap();
                let refreshed = service.refresh(token, HERE, now_s).await;
                assert_eq!(refreshed.is_ok(), session.live, "{refreshed:?}");
                if let Ok(tokens) = refreshed {
                    session.used_s = now_s;
                    session.access = tokens.access_token;
                    session.refresh.push(tokens.refresh_token);
                }
            }
            Step::Replay { session, token } => {
                let Some(session) = pick(session) else { return };
                let former = self.sessions[session].refresh.len() - 1;
                let Some(token) = token.checked_rem(former) else { return };
                let token = self.sessions[session].refresh[token].clone();
                assert!(service.refresh(&token, HERE, now_s).await.is_err());
                self.end(session);
            }
            Step::Forge { session } => {
                let Some(session) = pick(session) else { return };
                let mut token = self.sessions[session].refresh.last().unwrap().clone();
                token.replace_range(70..74, "AAAA");
                assert!(service.refresh(&token, HERE, now_s).await.is_err());
                service.revoke(&token, HERE, now_s).await.unwrap();
            }
            Step::Revoke { session, token } => {
                let Some(session) = pick(session) else { return };
                let tokens = &self.sessions[session].refresh;
                service.revoke(&tokens[token % tokens.len()], HERE, now_s).await.unwrap();
                self.end(session);
            }
            Step::RevokeByAccess { session } => {
                let Some(session) = pick(session) else { return };
                service.revoke(&self.sessions[session].access, HERE, now_s).await.unwrap();
                self.end(session);
            }
            Step::Disable(disabled) => {
                service.set_disabled("anna", *disabled, now_s).await.unwrap();
                self.disabled = *disabled;
                if *disabled {
                    self.end_all();
                }
            }
            Step::LogOut => {
                service.log_out("anna", now_s).await.unwrap();
                self.end_all();
            }
            Step::ChangePassword { session } => {
                let Some(session) = pick(session) else { return };
                let (old, new) = (password(self.passwords), password(self.passwords + 1));
                let access = self.sessions[session].access.clone();
                let changed = service.change_password(&access, old, new, HERE, now_s).await;
                assert_eq!(changed.is_ok(), self.sessions[session].live, "{changed:?}");
                if let Ok(tokens) = changed {
                    self.passwords += 1;
                    self.end_all();
                    self.begin(tokens);
                }
            }
            Step::Tick => service.housekeeping.tick(now_s).unwrap(),
        }
    }

    async fn log_in(&mut self) {
        let password = password(self.passwords);
        let logged_in = self.services[0].log_in("anna", password, HERE, self.now_s).await;
        assert_eq!(logged_in.is_ok(), !self.disabled, "{logged_in:?}");
        let Ok(tokens) = logged_in else { return };
        let live = (0..self.sessions.len()).filter(|at| self.sessions[*at].live);
        let live: Vec<usize> = live.collect();
        if live.len() == SESSIONS_MAX as usize {
            let longest_rested = live.into_iter().min_by_key(|at| self.sessions[*at].used_s);
            self.end(longest_rested.unwrap());
        }
        self.begin(tokens);
    }

    fn begin(&mut self, tokens: Tokens) {
        let claims = self.services[0].claims(&tokens, self.now_s);
        assert_eq!(claims.generation, Some(self.generation));
        self.sessions.push(Expected {
            live: true,
            used_s: self.now_s,
            id: claims.sid.unwrap(),
            access: tokens.access_token,
            refresh: vec![tokens.refresh_token],
        });
    }

    fn end(&mut self, session: usize) {
        let session = &mut self.sessions[session];
        if session.live {
            session.live = false;
            self.feed.push(Revoked::Session { session: session.id.clone() });
        }
    }

    fn end_all(&mut self) {
        self.generation += 1;
        let (subject, generation) = (self.subject.clone(), self.generation);
        self.feed.push(Revoked::User { subject, generation });
        for session in &mut self.sessions {
            session.live = false;
        }
    }

    /// Both processes see the same, and it is what should be.
    async fn check(&self) {
        for service in &self.services {
            assert_eq!(service.revoked().await, self.feed);
            for session in &self.sessions {
                let me = service.me(&session.access, self.now_s).await;
                assert_eq!(me.is_ok(), session.live, "{me:?}");
            }
        }
    }
}

fn password(number: u32) -> String {
    format!("the password number {number} of anna")
}

async fn live(is_cluster: bool, steps: &[(Step, Fault)]) {
    let mut model = Model::new(is_cluster).await;
    for (step, fault) in steps {
        model.ways.iter().for_each(|way| way.fail([*fault]));
        model.take(step).await;
        model.check().await;
    }
    // The last word: the newest token of each session that should live, and of no other.
    for session in 0..model.sessions.len() {
        model.take(&Step::Refresh { session }).await;
    }
}

/// What does not show.
fn fault() -> impl Strategy<Value = Fault> {
    use Fault::{Late, Lost, Moved, None, Unknown};
    prop_oneof![
        3 => Just(None),
        1 => proptest::sample::select(vec![Moved, Unknown, Lost, Late]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn sessions_live_until_something_ends_them(
        steps in proptest::collection::vec((step(), fault()), 1..40),
        is_cluster: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live(is_cluster, &steps));
    }
}
