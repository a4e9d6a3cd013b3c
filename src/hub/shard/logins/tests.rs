//! Logins and revocations race over real shards, every step of both in an order that a seed picks: who
//! is revoked is let in nowhere, and whoever is still there when all is told, may be.
//!
//! `SEED=… cargo test --lib hub::shard::logins` runs one seed again; `SEEDS=…` sets how many are tried.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::{
    clock,
    engine::memory::MemoryEngine,
    hub::{
        Format,
        crossing::borders,
        revocations::{Register, Revocation},
        revoked::Claim,
    },
    log::place::UserId,
    wire::Encoding,
};

const SHARDS: u16 = 3;
const USERS: u32 = 4;
const SEEDS: u64 = 300;
const STEPS: u32 = 400;
const KEPT: Duration = Duration::from_secs(3_600);

type TestShard = Rc<Shard<MemoryEngine, ()>>;

fn shards(count: u16, register: &Arc<Register>) -> Vec<TestShard> {
    let engine = Arc::new(MemoryEngine::default());
    let desk = crate::hub::desk::tests::a_desk(&engine);
    let shard = |borders| {
        let (engine, desk) = (Arc::clone(&engine), Arc::clone(&desk));
        Shard::new(borders, engine, desk, Arc::clone(register), Arc::default(), Arc::default())
    };
    borders(count).into_iter().map(|(borders, _)| shard(borders)).collect()
}

/// What a token says.
#[derive(Clone, PartialEq, Debug)]
struct Token {
    user: u32,
    session: String,
    generation: u32,
    key: String,
}

/// What was ever revoked, kept plainly.
#[derive(Clone, PartialEq, Debug)]
enum Truth {
    Session(String),
    User(u32, u32),
    Key(String),
    Ban(u32),
}

impl Truth {
    fn is_about(&self, token: &Token) -> bool {
        match self {
            Self::Session(session) => token.session == *session,
            Self::User(user, generation) => token.user == *user && token.generation < *generation,
            Self::Key(key) => token.key == *key,
            Self::Ban(user) => token.user == *user,
        }
    }
}

struct Connection {
    shard: usize,
    port: Rc<Port<()>>,
    token: Token,
}

struct World {
    rng: StdRng,
    register: Arc<Register>,
    shards: Vec<TestShard>,
    tokens: Vec<Token>,
    truth: Vec<Truth>,
    /// Of each user.
    generations: Vec<u32>,
    /// Logins that the edge found good, on their way to a shard.
    handed_over: Vec<(usize, Token, Identity)>,
    connections: Vec<Connection>,
    /// What each shard is to be told, and how far it has looked at the first of it.
    notices: Vec<VecDeque<(Arc<Notices>, usize)>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let register = Arc::new(Register::new(KEPT));
        Self {
            rng: StdRng::seed_from_u64(seed),
            shards: shards(SHARDS, &register),
            register,
            tokens: Vec::new(),
            truth: Vec::new(),
            generations: vec![0; USERS as usize],
            handed_over: Vec::new(),
            connections: Vec::new(),
            notices: vec![VecDeque::new(); usize::from(SHARDS)],
        }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..20 => self.issue(),
            20..45 => self.log_in(),
            45..65 => self.admit(),
            65..72 => self.renew(),
            72..76 => self.hang_up(),
            76..80 => self.revoke(),
            _ => {
                let shard = self.rng.random_range(0..self.shards.len());
                let count = self.rng.random_range(1..=3);
                self.look(shard, count);
            }
        }
    }

    /// The auth service issues a token: never of what it has revoked itself.
    fn issue(&mut self) {
        let user = self.rng.random_range(0..USERS);
        let token = Token {
            user,
            session: format!("{user} {}", self.rng.random_range(0..3)),
            generation: self.generations[user as usize],
            key: format!("key {}", self.rng.random_range(0..2)),
        };
        if !self.truth.iter().any(|it| it.is_about(&token)) {
            self.tokens.push(token);
        }
    }

    /// As the edge does it, with any token there ever was.
    fn identify(&self, token: &Token) -> Result<Identity, Refused> {
        let Token { user, session, generation, key } = token;
        let name = format!("user {user}");
        let credential = self.register.credential(&name, Some(session), Some(*generation), key);
        let claim = Box::new(Claim { credential, issued_at_s: Some(clock::unix_s()) });
        self.register.check(&claim)?;
        Ok(Identity { user: UserId(*user), name, expires_at: u64::MAX, claim })
    }

    fn any_token(&mut self) -> Option<Token> {
        let tokens = self.tokens.len();
        (tokens > 0).then(|| self.tokens[self.rng.random_range(0..tokens)].clone())
    }

    fn log_in(&mut self) {
        let Some(token) = self.any_token() else { return };
        let is_revoked = self.truth.iter().any(|it| it.is_about(&token));
        match self.identify(&token) {
            Ok(identity) => {
                assert!(!is_revoked, "{token:?}");
                let shard = self.rng.random_range(0..self.shards.len());
                self.handed_over.push((shard, token, identity));
            }
            Err(_) => assert!(is_revoked, "{token:?}"),
        }
    }

    fn admit(&mut self) {
        if self.handed_over.is_empty() {
            return;
        }
        let place = self.rng.random_range(0..self.handed_over.len());
        let (shard, token, identity) = self.handed_over.swap_remove(place);
        let port = self.shards[shard].connect(Format::plain(Encoding::Proto), ());
        match self.shards[shard].admit(&port, &identity) {
            Ok(()) => self.connections.push(Connection { shard, port, token }),
            Err(_) => self.shards[shard].disconnect(&port),
        }
    }

    /// With a token of any session of the same user.
    fn renew(&mut self) {
        let Some(token) = self.any_token() else { return };
        let identity = self.identify(&token);
        let open = self.connections.iter_mut().filter(|it| it.port.closing().is_none());
        let Some(connection) = open.into_iter().find(|it| it.token.user == token.user) else {
            return;
        };
        if let Ok(identity) = identity
            && self.shards[connection.shard].admit(&connection.port, &identity).is_ok()
        {
            connection.token = token;
        }
    }

    fn hang_up(&mut self) {
        if !self.connections.is_empty() {
            let place = self.rng.random_range(0..self.connections.len());
            let gone = self.connections.swap_remove(place);
            self.shards[gone.shard].disconnect(&gone.port);
        }
    }

    fn revoke(&mut self) {
        let user = self.rng.random_range(0..USERS);
        let session = format!("{user} {}", self.rng.random_range(0..3));
        let truth = match self.rng.random_range(0..10) {
            0..5 => Truth::Session(session),
            5..8 => {
                self.generations[user as usize] += 1;
                Truth::User(user, self.generations[user as usize])
            }
            8 => Truth::Key("key 0".to_owned()),
            _ => Truth::Ban(user),
        };
        let name = format!("user {user}");
        let revocation = match &truth {
            Truth::Session(session) => Revocation::Session(session),
            Truth::User(_, generation) => Revocation::User(&name, *generation),
            Truth::Key(key) => Revocation::Key(key),
            Truth::Ban(_) => Revocation::Ban(&name),
        };
        let notices = Arc::new(self.register.add([(revocation, clock::unix_ms())].into_iter()));
        self.truth.push(truth);
        for queue in &mut self.notices {
            queue.push_back((Arc::clone(&notices), 0));
        }
    }

    /// A shard looks at so many connections.
    fn look(&mut self, shard: usize, count: usize) {
        let queue = &mut self.notices[shard];
        let Some((notices, from)) = queue.front_mut() else { return };
        match self.shards[shard].close_revoked(notices, *from, count) {
            Some(next) => *from = next,
            None => drop(queue.pop_front()),
        }
    }

    /// Everybody looks at everything that they are told.
    fn settle(&mut self) {
        while !self.handed_over.is_empty() {
            self.admit();
        }
        for shard in 0..self.shards.len() {
            while !self.notices[shard].is_empty() {
                self.look(shard, 2);
            }
        }
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.settle();
    for Connection { port, token, .. } in &world.connections {
        let revoked: Vec<_> = world.truth.iter().filter(|it| it.is_about(token)).collect();
        match port.closing() {
            None => assert_eq!(revoked, [] as [&Truth; 0], "{token:?} is still there"),
            Some(CloseCode::Forbidden) => {
                assert!(revoked.iter().any(|it| !matches!(it, Truth::Key(_))), "{token:?}");
            }
            Some(CloseCode::TokenExpired) => {
                assert!(revoked.iter().any(|it| matches!(it, Truth::Key(_))), "{token:?}");
            }
            Some(other) => panic!("{token:?} is closed as {other}"),
        }
    }
}

#[test]
fn no_login_slips_past_a_revocation_and_no_other_ends() {
    let number = |name| std::env::var(name).ok().and_then(|seed: String| seed.parse().ok());
    let seeds = match number("SEED") {
        Some(seed) => seed..=seed,
        None => 0..=number("SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let run = std::panic::catch_unwind(|| run(seed));
        assert!(run.is_ok(), "SEED={seed}");
    }
}

#[test]
fn a_look_through_goes_on_where_it_stopped() {
    let register = Arc::new(Register::new(KEPT));
    let shard = shards(1, &register).remove(0);
    let mut ports = Vec::new();
    for user in 0..10 {
        let port = shard.connect(Format::plain(Encoding::Proto), ());
        let credential = register.credential(&format!("user {}", user % 2), None, None, "key");
        let claim = Box::new(Claim { credential, issued_at_s: None });
        let identity =
            Identity { user: UserId(user), name: String::new(), expires_at: u64::MAX, claim };
        // The last two have not logged in.
        if user < 8 {
            shard.admit(&port, &identity).unwrap();
        }
        ports.push(port);
    }
    let notices = register.add([(Revocation::Ban("user 1"), 0)].into_iter());
    assert_eq!(shard.close_revoked(&notices, 0, 4), Some(4));
    let closed = |ports: &[Rc<Port<()>>]| ports.iter().filter(|it| it.closing().is_some()).count();
    assert_eq!(closed(&ports), 2);
    assert_eq!(shard.close_revoked(&notices, 4, 4), Some(8));
    assert_eq!(shard.close_revoked(&notices, 8, 4), None);
    assert_eq!(closed(&ports), 4);
    assert!(ports[1].closing() == Some(CloseCode::Forbidden));
    // A place that is taken again has no login from before.
    shard.disconnect(&ports[1]);
    let next = shard.connect(Format::plain(Encoding::Proto), ());
    assert_eq!(next.key.slot, ports[1].key.slot);
    assert_eq!(shard.close_revoked(&notices, 0, 100), None);
    assert!(next.closing().is_none());
}
