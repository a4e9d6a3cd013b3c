//! What is asked of a store that grows, and what must come back. Pure.

use rand::{RngExt as _, rngs::SmallRng};
use serde::Serialize;
use serde_json::Value;

use crate::import::lines::Shape;

/// As many channels, and as many messages, as a page is asked for.
pub(super) const PAGE: u64 = 50;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// A random page of all channels.
    Channels,
    /// The newest messages of a random channel.
    Newest,
    /// Those before a random one.
    Older,
    /// What one channel is.
    Channel,
    /// A message, which is durable when it is answered.
    Publish,
}

impl Ask {
    pub(super) const ALL: [Self; 5] =
        [Self::Channels, Self::Newest, Self::Older, Self::Channel, Self::Publish];

    /// As a request, for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Channels => "GET /v1/channels",
            Self::Newest => "GET …/messages, newest",
            Self::Older => "GET …/messages, older",
            Self::Channel => "GET /v1/channels/{name}",
            Self::Publish => "POST …/messages",
        }
    }
}

/// A request that is ready to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub(super) ask: Ask,
    pub(super) path: String,
    /// Of a post.
    pub(super) json: Option<String>,
}

/// What a server holds, as far as requests need it.
#[derive(Clone, Debug)]
pub(super) struct Stock {
    pub(super) shape: Shape,
    /// Messages that were imported.
    pub(super) messages: u64,
    /// Where the full pages of channels begin: the first without a cursor.
    pub(super) cursors: Vec<Option<String>>,
}

impl Stock {
    /// How many channels there are. Channels get a run of messages each, one after the other, and then
    /// the next run: so every page is full however few messages there are.
    pub(super) fn channels(&self) -> u64 {
        (self.messages / self.shape.run).min(self.shape.channels)
    }

    /// How many messages a channel has, by its number, those left out that were published.
    pub(super) fn messages_of(&self, channel: u64) -> u64 {
        let runs = self.messages / self.shape.run;
        let whole_turns = runs / self.shape.channels;
        let has_one_more = channel < runs % self.shape.channels;
        (whole_turns + u64::from(has_one_more)) * self.shape.run
    }

    /// So many requests of each kind, in turn.
    pub(super) fn requests(&self, each: u64, random: &mut SmallRng) -> Vec<Request> {
        let turns = (0..each).flat_map(|_| Ask::ALL);
        turns
            .map(|ask| {
                let channel = random.random_range(0..self.channels());
                self.request(ask, channel, random)
            })
            .collect()
    }

    /// One of each kind about each channel: what the server does for a channel's first request only is
    /// done then.
    pub(super) fn first_requests(&self, random: &mut SmallRng) -> Vec<Request> {
        let mut requests = Vec::new();
        for channel in 0..self.channels() {
            requests.extend(Ask::ALL.map(|ask| self.request(ask, channel, random)));
        }
        requests
    }

    fn request(&self, ask: Ask, number: u64, random: &mut SmallRng) -> Request {
        let channel = self.shape.channel(number);
        let mut json = None;
        let path = match ask {
            Ask::Channels => {
                let cursor = &self.cursors[random.random_range(0..self.cursors.len())];
                channels_path(cursor.as_deref())
            }
            Ask::Newest => format!("/v1/channels/{channel}/messages?limit={PAGE}"),
            Ask::Older => {
                let before = random.random_range(PAGE + 1..=self.messages_of(number) + 1);
                format!("/v1/channels/{channel}/messages?limit={PAGE}&before={before}")
            }
            Ask::Channel => format!("/v1/channels/{channel}"),
            Ask::Publish => {
                json = Some(
                    r#"{"body":"the server is back, who has seen yesterday's build?"}"#.into(),
                );
                format!("/v1/channels/{channel}/messages")
            }
        };
        Request { ask, path, json }
    }
}

/// A page of channels.
pub(super) fn channels_path(cursor: Option<&str>) -> String {
    let after = cursor.map_or(String::new(), |it| format!("&after={}", escaped(it)));
    format!("/v1/channels?limit={PAGE}{after}")
}

/// A cursor is opaque, and may have any character.
fn escaped(cursor: &str) -> String {
    let is_plain = |it: u8| it.is_ascii_alphanumeric() || b"-_.~".contains(&it);
    let escape =
        |it: u8| if is_plain(it) { char::from(it).to_string() } else { format!("%{it:02X}") };
    cursor.bytes().map(escape).collect()
}

/// The status that is success.
pub(super) fn success(ask: Ask) -> u16 {
    if ask == Ask::Publish { 201 } else { 200 }
}

/// What is wrong with an answer: pages are full, and what was asked for is there.
pub(super) fn complaint(request: &Request, answer: &Value) -> Option<String> {
    let entries = |list: &str| answer[list].as_array().map_or(0, |it| it.len() as u64);
    let is_right = match request.ask {
        Ask::Channels => entries("channels") == PAGE,
        Ask::Newest | Ask::Older => entries("messages") == PAGE,
        Ask::Channel => request.path.strip_prefix("/v1/channels/") == answer["name"].as_str(),
        Ask::Publish => answer["sequence"].is_u64(),
    };
    (!is_right).then(|| format!("{} was answered with {answer}", request.path))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use rand::SeedableRng as _;
    use serde_json::json;

    use super::*;
    use crate::import::lines::Lines;

    fn stock(messages: u64) -> Stock {
        let shape = Shape {
            lines: messages,
            invalid: 0,
            prefix: "growth",
            channels: 40,
            run: PAGE,
            authors: 5,
            has_ids: false,
            seed: 1,
        };
        Stock { shape, messages, cursors: vec![None, Some("a+b=".to_owned())] }
    }

    #[test]
    fn channels_and_their_messages_are_those_that_the_lines_make() {
        for messages in [500, 2_000, 2_500, 9_050] {
            let stock = stock(messages);
            let (mut lines, mut out) = (Lines::new(stock.shape.clone()), Vec::new());
            while lines.append(&mut out) {}
            let mut made: BTreeMap<String, u64> = BTreeMap::new();
            for line in String::from_utf8(out).unwrap().lines() {
                let record: Value = serde_json::from_str(line).unwrap();
                *made.entry(record["channel"].as_str().unwrap().to_owned()).or_default() += 1;
            }
            assert_eq!(made.len() as u64, stock.channels(), "{messages}");
            for channel in 0..stock.channels() {
                let name = stock.shape.channel(channel);
                assert_eq!(made[&name], stock.messages_of(channel), "{name} of {messages}");
            }
        }
    }

    #[test]
    fn requests_are_of_every_kind_and_only_for_what_is_there() {
        let stock = stock(2_500);
        let requests = stock.requests(500, &mut SmallRng::seed_from_u64(1));
        assert_eq!(requests.len(), 2_500);
        let mut cursors = BTreeSet::new();
        for request in &requests {
            let of = |key: &str| request.path.split_once(key).map(|it| it.1);
            assert_eq!(request.json.is_some(), request.ask == Ask::Publish);
            if request.ask == Ask::Channels {
                cursors.insert(of("&after=").unwrap_or("").to_owned());
                continue;
            }
            let number: u64 = of("growth-").unwrap()[..5].parse().unwrap();
            assert!(number < 40);
            if let Some(before) = of("&before=") {
                let before: u64 = before.parse().unwrap();
                // 50 are before it.
                assert!((51..=stock.messages_of(number) + 1).contains(&before), "{request:?}");
            }
        }
        assert_eq!(cursors, ["", "a%2Bb%3D"].map(str::to_owned).into());
        let of = |ask| requests.iter().filter(|it| it.ask == ask).count();
        assert!(Ask::ALL.iter().all(|ask| of(*ask) == 500));
    }

    #[test]
    fn every_channel_has_a_first_request_of_each_kind() {
        let stock = stock(2_500);
        let requests = stock.first_requests(&mut SmallRng::seed_from_u64(1));
        let about: BTreeSet<_> = requests.iter().map(|it| (it.ask, it.path.as_str())).collect();
        for channel in 0..stock.channels() {
            let path = format!("/v1/channels/{}", stock.shape.channel(channel));
            assert!(about.contains(&(Ask::Channel, path.as_str())));
            assert!(about.contains(&(Ask::Publish, format!("{path}/messages").as_str())));
        }
        assert_eq!(requests.len() as u64, stock.channels() * Ask::ALL.len() as u64);
    }

    #[test]
    fn a_page_that_is_not_full_is_a_complaint() {
        let full: Vec<_> = (0..50).collect();
        let request = |ask| stock(2_500).request(ask, 7, &mut SmallRng::seed_from_u64(1));
        let right = |ask| match ask {
            Ask::Channels => json!({"channels": full}),
            Ask::Newest | Ask::Older => json!({"messages": full}),
            Ask::Channel => {
                json!({"name": request(ask).path.strip_prefix("/v1/channels/").unwrap()})
            }
            Ask::Publish => json!({"sequence": 7}),
        };
        for ask in Ask::ALL {
            assert_eq!(complaint(&request(ask), &right(ask)), None);
            assert!(complaint(&request(ask), &json!({})).is_some(), "{ask:?}");
        }
        let mut short = right(Ask::Newest);
        short["messages"].as_array_mut().unwrap().pop();
        assert!(complaint(&request(Ask::Newest), &short).unwrap().contains("was answered with"));
    }
}
