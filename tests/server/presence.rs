//! Who is there and who is writing: told to those who asked, exact, and in nobody's way.

use std::time::Instant;

use bytesize::ByteSize;
use hubbub::{
    config::Config,
    engine::Engine,
    server::cores::Shards,
    wire::{
        Encoding,
        code::ErrorCode,
        proto::{self, Role, Visibility, presence::Users, server_envelope::Envelope},
    },
};
use serde_json::json;

use crate::harness::{
    Heard, LOBBY, Peer, TestServer, channels::*, code_of, position, publish, subscribe,
    unsubscribe, within,
};

/// Nobody runs into the limit on how often.
fn unlimited(config: &mut Config) {
    config.limits.ephemeral_per_second = 10_000;
    config.limits.ephemeral_burst = 10_000;
}

/// A client, and what it has made of what it heard of presence.
pub(crate) struct Guest {
    pub(crate) peer: Peer,
    pub(crate) number: u32,
    pub(crate) counts: (u32, u32),
    /// None: too many.
    pub(crate) there: Option<Vec<u32>>,
    /// Events of presence so far.
    events: u32,
}

impl Guest {
    pub(crate) async fn login<E: Engine>(server: &TestServer<E>, name: &str) -> Self {
        Self::of(Peer::login(server, name).await, name).await
    }

    async fn of(mut peer: Peer, name: &str) -> Self {
        let number = peer.number_of(name).await;
        Self { peer, number, counts: (0, 0), there: None, events: 0 }
    }

    /// Subscribes, and asks for what is not in the log.
    pub(crate) async fn attend(&mut self, channel: &str) -> u32 {
        let mut command = subscribe(channel, None);
        if let proto::client_envelope::Command::Subscribe(subscribe) = &mut command {
            subscribe.ephemeral = true;
        }
        let proto::reply::Result::Subscribed(subscribed) = self.peer.ask(command).await.unwrap()
        else {
            panic!("another reply")
        };
        let before = self.events;
        while self.events == before {
            self.hear().await;
        }
        if let Some(there) = &self.there {
            assert!(there.contains(&self.number), "a client knows of itself: {there:?}");
        }
        subscribed.channel_id
    }

    /// Attends together with others of these names.
    async fn attending<E: Engine>(server: &TestServer<E>, names: &[&str]) -> Vec<Self> {
        let mut guests = Vec::new();
        for name in names {
            let mut guest = Self::login(server, name).await;
            guest.attend(LOBBY).await;
            guests.push(guest);
        }
        let users = names.iter().collect::<std::collections::BTreeSet<_>>().len();
        let counts = (u32::try_from(users).unwrap(), u32::try_from(names.len()).unwrap());
        for guest in &mut guests {
            guest.until(counts).await;
        }
        guests
    }

    /// Takes in what comes next. What is not about presence.
    pub(crate) async fn hear(&mut self) -> Option<Heard> {
        let presence = match self.peer.hear().await {
            Heard::Envelope(Envelope::Presence(presence)) => presence,
            Heard::End => panic!("the connection ended"),
            other => return Some(other),
        };
        self.events += 1;
        self.counts = (presence.user_count, presence.connection_count);
        match presence.users {
            None => self.there = None,
            Some(Users::Everyone(everyone)) => self.there = Some(everyone.user_ids),
            Some(Users::Changes(changes)) => {
                let there = self.there.as_mut().expect("changes build on names");
                there.retain(|user| !changes.left.contains(user));
                there.extend(changes.joined);
                there.sort_unstable();
                there.dedup();
            }
        }
        None
    }

    /// Listens until it has heard of so many users and connections.
    pub(crate) async fn until(&mut self, counts: (u32, u32)) {
        within("the presence", async {
            // Who has just come is told the others' names as they were announced.
            let names =
                |it: &Self| it.there.as_ref().is_none_or(|it| it.len() == counts.0 as usize);
            while self.counts != counts || !names(self) {
                self.hear().await;
            }
        })
        .await;
    }

    /// Listens until nobody is named.
    async fn until_too_many(&mut self) {
        within("the presence", async {
            while self.there.is_some() {
                self.hear().await;
            }
        })
        .await;
    }

    /// The next event of typing: whom it names.
    pub(crate) async fn typing(&mut self) -> Vec<u32> {
        within("typing", async {
            loop {
                match self.hear().await {
                    Some(Heard::Envelope(Envelope::Typing(typing))) => return typing.user_ids,
                    Some(Heard::Pong(_)) => panic!("no typing"),
                    _ => {}
                }
            }
        })
        .await
    }

    /// Who is there, as the server says when it is asked.
    pub(crate) async fn asks(&mut self, channel: &str) -> (u32, u32, Option<Vec<u32>>) {
        match self.peer.ask(get_presence(channel)).await.unwrap() {
            proto::reply::Result::Presence(presence) => {
                let users = presence.users.map(|users| match users {
                    Users::Everyone(everyone) => everyone.user_ids,
                    Users::Changes(changes) => panic!("{changes:?}"),
                });
                (presence.user_count, presence.connection_count, users)
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn users_see_each_other_come_and_go_in_both_encodings() {
    let server = TestServer::in_memory().await;
    let mut ada = Guest::login(&server, "ada").await;
    ada.attend(LOBBY).await;
    assert_eq!((ada.counts, &ada.there), ((1, 1), &Some(vec![ada.number])));
    let bob = Peer::login_with(&server, "bob", Encoding::Json).await;
    let mut bob = Guest::of(bob, "bob").await;
    bob.attend(LOBBY).await;
    let both = Some(vec![ada.number, bob.number]);
    assert_eq!((bob.counts, &bob.there), ((2, 2), &both));
    ada.until((2, 2)).await;
    assert_eq!(ada.there, both);
    assert_eq!(ada.asks(LOBBY).await, (2, 2, both));
    drop(ada);
    bob.until((1, 1)).await;
    assert_eq!(bob.there, Some(vec![bob.number]));
}

#[tokio::test]
async fn a_user_is_there_once_on_any_number_of_connections() {
    let server = TestServer::in_memory().await;
    let mut ada = Guest::attending(&server, &["ada"]).await.pop().unwrap();
    let mut tabs = Vec::new();
    for tab in 2..=3 {
        let mut peer = Peer::login(&server, "bob").await;
        // Whether it asks or not.
        peer.subscribe(LOBBY, None).await.unwrap();
        tabs.push(peer);
        ada.until((2, tab)).await;
    }
    let events = ada.events;
    drop(tabs.pop());
    ada.until((2, 2)).await;
    assert_eq!(ada.there.as_ref().unwrap().len(), 2, "the other tab is open");
    assert!(ada.events > events);
    drop(tabs);
    ada.until((1, 1)).await;
}

#[tokio::test]
async fn who_did_not_ask_hears_nothing_of_it() {
    let server = TestServer::in_memory().await;
    let mut plain = Peer::login(&server, "plain").await;
    plain.subscribe(LOBBY, None).await.unwrap();
    let mut ada = Guest::attending_one(&server, "ada", (2, 2)).await;
    ada.peer.ask(send_typing(LOBBY)).await.unwrap();
    assert_eq!(plain.catch_up().await, []);
}

#[tokio::test]
async fn what_changes_within_a_second_is_told_together() {
    let server = TestServer::in_memory().await;
    let mut ada = Guest::attending(&server, &["ada"]).await.pop().unwrap();
    let (events, begun) = (ada.events, Instant::now());
    let mut others = Vec::new();
    for number in 0..20 {
        let mut peer = Peer::login(&server, &format!("user{number}")).await;
        peer.subscribe(LOBBY, None).await.unwrap();
        others.push(peer);
    }
    ada.until((21, 21)).await;
    // The first at once, and one for each second that is over.
    let at_most = 1 + begun.elapsed().as_secs() + 1;
    let heard = u64::from(ada.events - events);
    assert!(heard <= at_most, "{heard} events in {:?}", begun.elapsed());
}

#[tokio::test]
async fn every_end_of_a_subscription_is_seen_wherever_the_channel_is() {
    tokio::join!(every_end_is_seen(1), every_end_is_seen(2), every_end_is_seen(3));
}

async fn every_end_is_seen(shards: u16) {
    let server = TestServer::in_memory_with(|config| {
        unlimited(config);
        config.hub.shards = Shards::Number(shards);
    })
    .await;
    let mut owner = Guest::login(&server, "owner").await;
    owner.peer.create(private("room")).await.unwrap();
    owner.attend("room").await;
    let mut guests = Vec::new();
    for name in ["ada", "bob", "eve", "joe"] {
        let mut guest = Guest::login(&server, name).await;
        let invited = set_member("room", guest.number, Role::Member);
        owner.peer.member(invited).await.unwrap();
        guest.attend("room").await;
        guests.push(guest);
    }
    owner.until((5, 5)).await;
    let [mut ada, bob, mut eve, mut joe] = guests.try_into().ok().unwrap();
    let channel = ada.attend_twice_is_refused("room").await;
    // Unsubscribed, twice: the second time there was nothing to end.
    ada.peer.ask(unsubscribe(channel)).await.unwrap();
    ada.peer.ask(unsubscribe(channel)).await.unwrap_err();
    ada.peer.catch_up().await;
    owner.until((4, 4)).await;
    // The connection is gone.
    drop(bob);
    owner.until((3, 3)).await;
    // Removed.
    let removed = remove_member("room", eve.number);
    owner.peer.member(removed).await.unwrap();
    owner.until((2, 2)).await;
    eve.is_ended().await;
    assert_eq!(owner.asks("room").await, (2, 2, Some(vec![owner.number, joe.number])));
    // Refused subscribes do not count.
    let refused = joe.peer.ask(subscribe("room", position(1, 0))).await;
    assert_eq!(code_of(refused), ErrorCode::AlreadySubscribed);
    let refused = ada.peer.ask(subscribe("room", position(1, 0))).await;
    assert_eq!(code_of(refused), ErrorCode::EpochChanged);
    assert_eq!(owner.asks("room").await.1, 2);
    assert_eq!(ada.peer.catch_up().await, [], "it heard nothing of all that");
    // Back again, and an outsider of a channel that was open for a while.
    ada.attend("room").await;
    let opened = proto::UpdateChannel { visibility: Visibility::Public.into(), ..change("room") };
    owner.peer.update(opened).await.unwrap();
    eve.attend("room").await;
    owner.until((4, 4)).await;
    let closed = proto::UpdateChannel { visibility: Visibility::Private.into(), ..change("room") };
    owner.peer.update(closed).await.unwrap();
    owner.until((3, 3)).await;
    eve.is_ended().await;
    // Deleted: the channel that gets the name is another one.
    owner.peer.ask(delete("room")).await.unwrap();
    joe.is_ended().await;
    owner.peer.create(open("room")).await.unwrap();
    assert_eq!(owner.asks("room").await, (0, 0, Some(vec![])));
}

impl Guest {
    async fn attend_twice_is_refused(&mut self, channel: &str) -> u32 {
        let refused = self.peer.ask(subscribe(channel, None)).await;
        assert_eq!(code_of(refused), ErrorCode::AlreadySubscribed);
        match self.peer.ask(get_channel(channel)).await.unwrap() {
            proto::reply::Result::Channel(channel) => channel.channel_id,
            other => panic!("{other:?}"),
        }
    }

    /// The server ends the subscription, and nothing comes after that.
    async fn is_ended(&mut self) {
        within("the end of a subscription", async {
            while !matches!(
                self.hear().await,
                Some(Heard::Envelope(Envelope::SubscriptionEnded(_)))
            ) {}
        })
        .await;
        assert_eq!(self.peer.catch_up().await, []);
    }
}

#[tokio::test]
async fn those_who_come_and_go_in_a_hurry_are_counted_right_in_the_end() {
    tokio::join!(all_are_counted(1), all_are_counted(2), all_are_counted(3));
}

async fn all_are_counted(shards: u16) {
    let server =
        TestServer::in_memory_with(|config| config.hub.shards = Shards::Number(shards)).await;
    let mut watcher = Guest::attending(&server, &["watcher"]).await.pop().unwrap();
    let mut tasks = Vec::new();
    for number in 0..6 {
        let mut guest = Guest::login(&server, &format!("user{}", number % 3)).await;
        tasks.push(tokio::spawn(async move {
            for round in 0..20 {
                let channel = guest.attend(LOBBY).await;
                // Two frames at once: the second subscribe is of another subscription.
                guest.peer.send(unsubscribe(channel)).await;
                let since = (round % 2 == 0).then_some(()).and(position(1, 0));
                guest.peer.send(subscribe(LOBBY, since)).await;
                let _ = guest.peer.ask(unsubscribe(channel)).await;
            }
            guest.attend(LOBBY).await;
            guest
        }));
    }
    let mut guests = Vec::new();
    for task in tasks {
        guests.push(within("a guest", task).await.unwrap());
    }
    watcher.until((4, 7)).await;
    for guest in &mut guests {
        guest.until((4, 7)).await;
        assert_eq!(guest.there, watcher.there);
    }
    guests.clear();
    watcher.until((1, 1)).await;
}

#[tokio::test]
async fn too_many_are_counted_and_not_named() {
    let server = TestServer::in_memory_with(|config| config.limits.presence_users_max = 2).await;
    let mut guests = Guest::attending(&server, &["ada", "bob", "eve"]).await;
    for guest in &mut guests {
        guest.until_too_many().await;
        assert_eq!(guest.counts, (3, 3));
        assert_eq!(guest.asks(LOBBY).await, (3, 3, None));
    }
    // Nobody is told who is writing either.
    guests[0].peer.ask(send_typing(LOBBY)).await.unwrap();
    for heard in guests[1].peer.catch_up().await {
        assert!(!matches!(heard, Heard::Envelope(Envelope::Typing(_))), "{heard:?}");
    }
    let late = Guest::attending_one(&server, "joe", (4, 4)).await;
    assert_eq!(late.there, None);
    drop(late);
    guests.pop();
    for guest in &mut guests {
        guest.until((2, 2)).await;
        assert_eq!(guest.there.as_ref().unwrap().len(), 2, "they are named again");
    }
}

impl Guest {
    async fn attending_one<E: Engine>(
        server: &TestServer<E>,
        name: &str,
        counts: (u32, u32),
    ) -> Self {
        let mut guest = Self::login(server, name).await;
        guest.attend(LOBBY).await;
        guest.until(counts).await;
        guest
    }
}

#[tokio::test]
async fn the_others_are_told_who_is_writing() {
    let server = TestServer::in_memory().await;
    let mut guests = Guest::attending(&server, &["ada", "ada", "bob", "eve"]).await;
    let (ada, eve) = (guests[0].number, guests[3].number);
    let mut outsider = Guest::login(&server, "outsider").await;
    guests[0].peer.ask(send_typing(LOBBY)).await.unwrap();
    guests[3].peer.ask(send_typing(LOBBY)).await.unwrap();
    // Whether she is there herself or not.
    outsider.peer.ask(send_typing(LOBBY)).await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < 3 {
        heard.extend(guests[2].typing().await);
    }
    heard.sort_unstable();
    assert_eq!(heard, [ada, eve, outsider.number]);
    for of_ada in &mut guests[..2] {
        let mut heard = Vec::new();
        while heard.len() < 2 {
            heard.extend(of_ada.typing().await);
        }
        heard.sort_unstable();
        assert_eq!(heard, [eve, outsider.number], "on no connection of her own");
    }
    // Nothing of it is in the log.
    assert_eq!(guests[0].peer.history(LOBBY, None, 10).await.unwrap().0, []);
}

#[tokio::test]
async fn only_who_may_publish_is_told_of() {
    let server = TestServer::in_memory_with(unlimited).await;
    let mut owner = Guest::login(&server, "owner").await;
    let mut eve = Guest::login(&server, "eve").await;
    let members = proto::CreateChannel { posting: proto::Posting::Members.into(), ..open("news") };
    owner.peer.create(members).await.unwrap();
    owner.peer.create(private("secret")).await.unwrap();
    assert_eq!(code_of(eve.peer.ask(send_typing("news")).await), ErrorCode::Forbidden);
    assert_eq!(eve.asks("news").await, (0, 0, Some(vec![])), "but all may look");
    for channel in ["secret", "nowhere"] {
        assert_eq!(code_of(eve.peer.ask(send_typing(channel)).await), ErrorCode::UnknownChannel);
        assert_eq!(code_of(eve.peer.ask(get_presence(channel)).await), ErrorCode::UnknownChannel);
    }
    owner.peer.ask(send_typing("news")).await.unwrap();
    let archived = proto::UpdateChannel { archived: Some(true), ..change("news") };
    owner.peer.update(archived).await.unwrap();
    assert_eq!(code_of(owner.peer.ask(send_typing("news")).await), ErrorCode::ChannelArchived);
}

#[tokio::test]
async fn both_doors_take_from_one_allowance_and_others_have_theirs() {
    let server = TestServer::in_memory().await;
    let mut ada = Peer::login(&server, "ada").await;
    let api = server.api("ada");
    let mut allowed = 0;
    let refused = loop {
        match ada.ask(send_typing(LOBBY)).await {
            Ok(_) => allowed += 1,
            Err(refused) => break refused,
        }
        let seen = api.get("/v1/channels/lobby/presence").await;
        if seen.status == 200 {
            allowed += 1;
        } else {
            seen.is_refused(429, "rate_limited");
            assert!(seen.retry_after().is_some_and(|seconds| seconds >= 1));
        }
        assert!(allowed < 1_000, "no limit");
    };
    assert!(allowed >= 20, "a burst of 20: {allowed}");
    assert_eq!(refused.code, i32::from(ErrorCode::RateLimited.number()));
    assert!((1..=200).contains(&refused.retry_after_ms), "{refused:?}");
    ada.publish(LOBBY, "nothing else is limited by it").await.unwrap();
    let mut bob = Peer::login(&server, "bob").await;
    bob.ask(send_typing(LOBBY)).await.unwrap();
}

#[tokio::test]
async fn over_http_it_is_the_same() {
    let server = TestServer::in_memory_with(unlimited).await;
    let api = server.api("bob");
    let nobody = api.get("/v1/channels/lobby/presence").await;
    assert_eq!(nobody.is(200), &json!({"user_count": 0, "connection_count": 0, "users": []}));
    let mut guests = Guest::attending(&server, &["ada", "ada"]).await;
    let seen = api.get("/v1/channels/lobby/presence").await;
    let ada = json!({"user_id": guests[0].number, "name": "ada"});
    let expected = json!({"user_count": 1, "connection_count": 2, "users": [ada]});
    assert_eq!(seen.is(200), &expected);
    let told = api.ask("POST", "/v1/channels/lobby/typing", "", None).await;
    assert_eq!((told.status, told.text.as_str()), (202, ""));
    assert_eq!(guests[0].typing().await.len(), 1);
    api.post("/v1/channels/lobby/typing", &json!({})).await.is(202);
    api.post("/v1/channels/lobby/typing", &json!({"x": 1})).await.is_refused(400, "bad_request");
    for path in ["presence", "typing"] {
        let method = if path == "typing" { "POST" } else { "GET" };
        let missing = api.ask(method, &format!("/v1/channels/nowhere/{path}"), "", None).await;
        missing.is_refused(404, "unknown_channel");
    }
}

#[tokio::test]
async fn a_connection_that_lags_loses_no_message_to_it_and_is_set_right_later() {
    let server = TestServer::in_memory_with(|config| {
        unlimited(config);
        // Much more than is published between two events.
        config.limits.outbox_bytes_max = ByteSize::mib(16);
        config.limits.write_stall_timeout = std::time::Duration::from_secs(60);
        config.limits.ping_interval = std::time::Duration::from_secs(600);
    })
    .await;
    let slow = Peer::login_narrow(&server, "slow").await;
    let mut slow = Guest::of(slow, "slow").await;
    slow.attend(LOBBY).await;
    let mut ada = Guest::attending_one(&server, "ada", (2, 2)).await;
    slow.until((2, 2)).await;
    // It takes nothing, until half of its outbox is full.
    let body = "x".repeat(ByteSize::kib(16).as_u64() as usize);
    let mut published = 0;
    let lagging = async {
        while server.counter("ephemeral_dropped").await == 0 {
            let id = ada.peer.send(publish(LOBBY, &body, 0)).await;
            ada.peer.published(id).await.unwrap();
            published += 1;
            ada.peer.ask(send_typing(LOBBY)).await.unwrap();
        }
    };
    within("a slow connection", lagging).await;
    let dropped = server.counter("ephemeral_dropped").await;
    let bob = Guest::attending_one(&server, "bob", (3, 3)).await;
    within("a dropped event", async {
        while server.counter("ephemeral_dropped").await == dropped {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(server.closed("slow_consumer").await, 0);
    // It reads again: all messages, and who is there as a whole.
    let mut messages = 0;
    within("the rest", async {
        while messages < published || slow.counts != (3, 3) {
            if let Some(Heard::Messages(more)) = slow.hear().await {
                messages += more.len();
            }
        }
    })
    .await;
    assert_eq!(messages, published);
    let mut all = vec![slow.number, ada.number, bob.number];
    all.sort_unstable();
    assert_eq!(slow.there, Some(all));
    drop(bob);
    slow.until((2, 2)).await;
}

#[tokio::test]
async fn a_server_that_drains_tells_nobody_who_goes() {
    let mut server = TestServer::in_memory().await;
    let guests = Guest::attending(&server, &["ada", "bob", "eve"]).await;
    assert!(server.drain().await);
    for mut guest in guests {
        let rest = guest.peer.rest().await;
        let after = rest
            .iter()
            .skip_while(|heard| !matches!(heard, Heard::Envelope(Envelope::GoingAway(_))));
        for heard in after {
            assert!(!matches!(heard, Heard::Envelope(Envelope::Presence(_))), "{heard:?}");
        }
    }
}
