//! How a user gets its token: an account, unless it has one, and a login. Again when the token has
//! run for most of its time.

use std::time::Duration;

use hubbub::wire::proto;
use rand::RngExt as _;
use serde::Deserialize;

use super::{Command, Kind, RECONNECT_PATIENCE, Side, Stage, User, Want, replies::in_one_line};
use crate::swarm::{
    http,
    timers::{Due, Timer},
    world::{World, us},
};

/// Of all virtual users, so that the next run can use their accounts again.
const PASSWORD: &str = "a virtual user";
/// Until one request is answered.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);
/// A user who is put off for this long is at its end.
const LOGIN_PATIENCE: Duration = Duration::from_secs(300);
/// Before it asks again, unless the server says how long.
const PUT_OFF_PAUSE: Duration = Duration::from_secs(1);

/// A connection for the two requests.
#[derive(Debug, Default)]
pub(super) struct Door {
    pub(super) out: Vec<u8>,
    unfinished: Vec<u8>,
    is_open: bool,
    /// Whether an answer is to come; otherwise it waits for its next try.
    is_asking: bool,
}

/// What the token endpoint answers.
#[derive(Deserialize)]
struct Token {
    access_token: String,
    /// In seconds.
    #[serde(default)]
    expires_in: u64,
}

/// A refusal, as RFC 9457 has it.
#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    name: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: Option<String>,
}

/// What a refusal says, for people.
pub(crate) fn problem(body: &[u8]) -> String {
    match serde_json::from_slice::<Problem>(body) {
        Ok(Problem { name, title, detail }) => {
            let detail = detail.map(|it| format!(" ({it})")).unwrap_or_default();
            in_one_line(&format!("{name}: {title}{detail}"))
        }
        Err(_) => in_one_line(&String::from_utf8_lossy(body)),
    }
}

impl User {
    pub(super) fn log_in(&mut self, world: &mut World) {
        self.stage = Stage::LoggingIn;
        if self.door.is_none() {
            self.knock(world);
        }
    }

    /// Asks for the account, or for the token.
    fn knock(&mut self, world: &mut World) {
        let host = &world.plan.target(self.number).host;
        let username = self.username(world);
        let door = self.door.get_or_insert_default();
        door.out.clear();
        door.is_asking = true;
        if self.has_account {
            let json = serde_json::json!({
                "grant_type": "password", "username": username, "password": PASSWORD,
            });
            http::write_post(&mut door.out, host, "/v1/token", &json.to_string());
            self.login_began_us.get_or_insert(world.now_us);
        } else {
            let json = serde_json::json!({ "username": username, "password": PASSWORD });
            http::write_post(&mut door.out, host, "/v1/accounts", &json.to_string());
        }
        if !std::mem::replace(&mut door.is_open, true) {
            door.unfinished.clear();
            self.want(Side::Door, Want::Open);
        }
        self.token_stamp += 1;
        world.set_timer(REQUEST_PATIENCE, self.number, Due::KnockBy, self.token_stamp);
    }

    fn username(&self, world: &World) -> String {
        match self.kind {
            Kind::Witness => format!("{}-witness", world.plan.run),
            _ => format!("virtual-{}", self.number),
        }
    }

    pub(super) fn login_timer(&mut self, timer: Timer, world: &mut World) {
        if self.stage == Stage::Over {
            return;
        }
        let is_asking = self.door.as_ref().is_some_and(|door| door.is_asking);
        match timer.due {
            Due::Knock if self.door.is_some() && !is_asking => self.knock(world),
            Due::KnockBy if is_asking && timer.stamp == self.token_stamp => {
                self.door_lost("login: no answer in 30 s", world);
            }
            Due::Renew if timer.stamp == self.token_stamp && self.door.is_none() => {
                self.knock(world);
            }
            _ => {}
        }
    }

    /// What its door received.
    pub(crate) fn receive_at_door(&mut self, bytes: &[u8], world: &mut World) {
        let Some(door) = &mut self.door else { return };
        if !door.is_asking {
            return;
        }
        let mut whole = std::mem::take(&mut door.unfinished);
        whole.extend_from_slice(bytes);
        match http::response(&whole) {
            Ok(None) => door.unfinished = whole,
            Ok(Some(response)) => {
                door.is_asking = false;
                if response.closes {
                    door.is_open = false;
                    self.close_door();
                }
                self.answered(&response, world);
            }
            Err(error) => self.door_lost(&format!("login: {error}"), world),
        }
    }

    fn answered(&mut self, response: &http::Response<'_>, world: &mut World) {
        let said = problem(response.body);
        match (response.status, self.has_account) {
            (201, false) => {
                self.has_account = true;
                self.knock(world);
            }
            (409, false) if said.starts_with("username_taken") => {
                self.has_account = true;
                self.knock(world);
            }
            (200, true) => match serde_json::from_slice::<Token>(response.body) {
                Ok(token) => self.token_given(token, world),
                Err(_) => world.fail(anyhow::anyhow!("the server's token cannot be read")),
            },
            (429 | 503, _) => {
                let what = format!("login: {}", response.status);
                world.books.error(&what);
                let pause = response.retry_after.map_or(PUT_OFF_PAUSE, Duration::from_secs);
                let pause = pause.min(LOGIN_PATIENCE);
                // Up to half as long again, so that those who were put off together come apart.
                let most_us = us(pause) / 2;
                let jitter = Duration::from_micros(world.random.random_range(0..=most_us));
                self.knock_again(&what, LOGIN_PATIENCE, Some(pause + jitter), world);
            }
            (status, true) if said.contains("invalid_credentials") => {
                let name = self.username(world);
                world.books.error(&format!("login: {status}"));
                world.fail(anyhow::anyhow!("the account `{name}` exists with another password"));
            }
            (status, _) => {
                world.books.error(&format!("login: {status}"));
                let text = format!("the server refuses a login: {status} {said}");
                if self.was_ready {
                    self.end(&text, world);
                } else {
                    world.fail(anyhow::anyhow!(text));
                }
            }
        }
    }

    fn token_given(&mut self, token: Token, world: &mut World) {
        if let Some(began_us) = self.login_began_us.take() {
            world.books.login(world.now_us.saturating_sub(began_us));
        }
        self.door = None;
        self.close_door();
        if token.expires_in > 0 {
            let after = Duration::from_secs(token.expires_in).mul_f64(0.8);
            world.set_timer(after, self.number, Due::Renew, self.token_stamp);
        }
        if self.is_open() {
            let authenticate = proto::Authenticate { token: token.access_token.clone() };
            let command = proto::client_envelope::Command::Authenticate(authenticate);
            self.ask(Command::Authenticate, command, world);
        }
        self.token = Some(token.access_token);
        if self.stage == Stage::LoggingIn {
            (self.tries, self.trying_since_us) = (0, None);
            self.connect(world);
        }
    }

    /// The door's socket broke, or nothing came through it.
    pub(super) fn door_lost(&mut self, what: &str, world: &mut World) {
        let Some(door) = &mut self.door else { return };
        door.is_open = false;
        let was_asking = std::mem::take(&mut door.is_asking);
        self.close_door();
        // Between two tries a connection may end without any harm.
        if was_asking {
            world.books.error(what);
            self.knock_again(what, RECONNECT_PATIENCE, None, world);
        }
    }

    fn knock_again(
        &mut self,
        what: &str,
        patience: Duration,
        asked_for: Option<Duration>,
        world: &mut World,
    ) {
        if self.stage == Stage::LoggingIn {
            self.try_again(what, patience, asked_for, Due::Knock, world);
        } else {
            // It renews, and has time until its old token runs out.
            let pause = asked_for.unwrap_or(PUT_OFF_PAUSE);
            world.set_timer(pause, self.number, Due::Knock, 0);
        }
    }
}
