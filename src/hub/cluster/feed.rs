//! What other nodes commit, brought to the shards of its channels.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{News, Parts};
use crate::{
    engine::{Engine, Feed},
    hub::{ShardInput, crossing},
    limits::FEED_MAX,
    log::batch::Entry,
};

/// Brings all that comes, for as long as there is a hub. It waits for a shard that has no room: what the
/// engine cannot keep meanwhile it makes good by a reset.
pub(super) async fn bring<E: Engine>(mut feed: mpsc::Receiver<Feed>, parts: Arc<Parts<E>>) {
    let mut news = Vec::with_capacity(FEED_MAX);
    loop {
        if feed.recv_many(&mut news, FEED_MAX).await == 0 {
            // The engine has ended, as the process does.
            return;
        }
        let Some(hub) = parts.hub.upgrade() else { return };
        let shards = u16::try_from(hub.mailboxes.len()).expect("shards count in 16 bits");
        let mut grouped: Vec<Vec<Entry>> = vec![Vec::new(); usize::from(shards)];
        let mut is_reset = false;
        for news in news.drain(..) {
            match news {
                Feed::Entry(entry) => {
                    grouped[usize::from(crossing::owner(entry.channel, shards).0)].push(entry);
                }
                Feed::Reset => {
                    // What came before is found by the look at the logs, too.
                    grouped.iter_mut().for_each(Vec::clear);
                    is_reset = true;
                }
            }
        }
        if is_reset {
            parts.metrics.feed_resets.inc();
            tracing::warn!("news of other nodes were missed: all channels look at their logs");
            parts.directory.unlearn_all();
            parts.bans.have_changed();
        }
        for (mailbox, entries) in hub.mailboxes.iter().zip(grouped) {
            let reset = is_reset.then_some(News::Reset);
            let entries = (!entries.is_empty()).then_some(News::Entries(entries));
            for news in [reset, entries].into_iter().flatten() {
                // An error means that the shard has ended, as the process does.
                let _ = mailbox.inputs.send(ShardInput::News(news)).await;
            }
        }
    }
}
