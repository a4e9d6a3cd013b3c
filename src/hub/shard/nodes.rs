//! What the shard hears of the other nodes.

use std::rc::Rc;

use super::Shard;
use crate::{engine::Engine, hub::cluster::News};

impl<E: Engine, S: 'static> Shard<E, S> {
    /// Takes in what other nodes have committed, tell or are.
    pub fn news(self: &Rc<Self>, news: News) {
        match news {
            News::Owners(_) | News::Entries(_) | News::Reset => {}
            News::Presence(node, presence) => self.presence_elsewhere(node, presence),
            News::Typing(channel, user) => self.typing_elsewhere(channel, user),
            News::MarkedRead(channel, user, read) => self.read_elsewhere(channel, user, read),
            News::Hello(node) => self.tell_presence(node),
            News::Gone(node) => self.forget_node(node),
        }
    }
}
