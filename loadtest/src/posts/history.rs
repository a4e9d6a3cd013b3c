//! What a channel holds, read page by page, and whether its sequences are what they must be.

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::server::talk::Talk;

/// As many as the server gives at once.
const PAGE: u32 = 200;

/// All of a channel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct History {
    /// The newest sequence, as the last page told it.
    pub(crate) head: u64,
    /// Of each entry, in the order in which they came.
    pub(crate) sequences: Vec<u64>,
    /// Of each entry that is a message.
    pub(crate) messages: Vec<(u64, String)>,
}

#[derive(Deserialize)]
struct Page {
    head_sequence: u64,
    messages: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    sequence: u64,
    /// None of a change of members or settings.
    body: Option<String>,
}

/// The whole history of a channel.
pub(crate) async fn read(talk: &mut Talk, channel: &str) -> Result<History> {
    let mut history = History::default();
    loop {
        let after = history.sequences.last().copied().unwrap_or(0);
        let path = format!("/v1/channels/{channel}/messages?after={after}&limit={PAGE}");
        let page: Page = talk.get(&path).await?.expect(200).context("a page of history")?;
        history.head = page.head_sequence;
        let newest = page.messages.last().map_or(after, |it| it.sequence);
        for Entry { sequence, body } in page.messages {
            history.sequences.push(sequence);
            history.messages.extend(body.map(|body| (sequence, body)));
        }
        if newest >= history.head {
            return Ok(history);
        }
        ensure!(
            newest > after,
            "history has nothing after {after}, although it ends with {}",
            history.head
        );
    }
}

/// What is wrong with these sequences, in the order of a log: they are 1, 2, 3, … up to one that lies
/// between what was acknowledged and what may have been under way besides.
pub(crate) fn complaint(sequences: &[u64], acknowledged: u64, under_way: u64) -> Option<String> {
    let is_wrong = |(expected, sequence): &(u64, &u64)| expected != *sequence;
    if let Some((expected, sequence)) = (1..).zip(sequences).find(is_wrong) {
        return Some(format!("sequence {sequence} stands where {expected} should"));
    }
    let stored = sequences.len() as u64;
    let most = acknowledged + under_way;
    (!(acknowledged..=most).contains(&stored))
        .then(|| format!("{stored} messages are stored, and {acknowledged} to {most} should be"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::talk::tests::stand_in;

    #[test]
    fn a_gap_a_repeat_and_what_was_lost_or_made_up_are_complaints() {
        let all: Vec<u64> = (1..=10).collect();
        for (acknowledged, under_way) in [(10, 0), (7, 3), (0, 20)] {
            assert_eq!(complaint(&all, acknowledged, under_way), None);
        }
        let lost = complaint(&all, 11, 5).unwrap();
        assert_eq!(lost, "10 messages are stored, and 11 to 16 should be");
        assert!(complaint(&all, 5, 4).unwrap().starts_with("10 messages are stored"));
        let gap = complaint(&[1, 2, 4], 3, 0).unwrap();
        assert_eq!(gap, "sequence 4 stands where 3 should");
        assert_eq!(complaint(&[1, 2, 2], 3, 0).unwrap(), "sequence 2 stands where 3 should");
        assert_eq!(complaint(&[2, 1], 2, 0).unwrap(), "sequence 2 stands where 1 should");
    }

    #[tokio::test]
    async fn pages_are_read_to_the_head_and_events_are_no_messages() {
        let address = stand_in(|asked| {
            let after: u64 =
                asked.line().split("after=").nth(1)?.split('&').next()?.parse().ok()?;
            let entries: Vec<_> = (after + 1..=(after + 3).min(7))
                .map(|sequence| match sequence {
                    2 => json!({"sequence": 2, "settings": {}}),
                    _ => json!({"sequence": sequence, "body": format!("{sequence}")}),
                })
                .collect();
            Some((200, json!({"head_sequence": 7, "messages": entries}).to_string()))
        });
        let history = read(&mut Talk::new(address.await, "t"), "c").await.unwrap();
        assert_eq!((history.head, history.sequences.len()), (7, 7));
        let bodies: Vec<_> = history.messages.iter().map(|it| &*it.1).collect();
        assert_eq!(bodies, ["1", "3", "4", "5", "6", "7"]);
    }

    #[tokio::test]
    async fn a_history_that_ends_before_its_head_is_refused() {
        let address =
            stand_in(|_| Some((200, json!({"head_sequence": 7, "messages": []}).to_string())));
        let error = read(&mut Talk::new(address.await, "t"), "c").await.unwrap_err();
        assert!(error.to_string().contains("nothing after 0"), "{error}");
    }
}
