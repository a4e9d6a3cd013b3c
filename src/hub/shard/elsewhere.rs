//! What is not in the logs, on other nodes: who is there, who is writing, what was read.

use std::rc::Rc;

use super::Shard;
use crate::{
    engine::{Engine, bus::NodeId},
    log::place::{ChannelId, Position, UserId},
    wire::cluster,
};

impl<E: Engine, S: 'static> Shard<E, S> {
    /// A node tells who is in a channel there.
    pub(super) fn presence_elsewhere(self: &Rc<Self>, _: NodeId, _: cluster::Presence) {}

    /// A user is writing on another node.
    pub(super) fn typing_elsewhere(self: &Rc<Self>, _: ChannelId, _: UserId) {}

    /// A user has read so far on another node.
    pub(super) fn read_elsewhere(self: &Rc<Self>, _: ChannelId, _: UserId, _: Position) {}

    /// A node wants to know who is in the channels here.
    pub(super) fn tell_presence(self: &Rc<Self>, _: NodeId) {}

    /// A node is gone, and with it all who were there.
    pub(super) fn forget_node(self: &Rc<Self>, _: NodeId) {}
}
