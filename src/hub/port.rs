//! The shard's end of one connection. Hot: fan-out touches it for each delivery.
//!
//! Shared by the shard and the connection's task, on the same thread.

use std::{
    cell::{Cell, RefCell},
    fmt,
    task::{Context, Poll, Waker},
};

use super::{Asked, ConnectionKey, Format, Ticket, outbox::Outbox};
use crate::{
    log::place::ChannelId,
    wire::{Encoding, code::CloseCode},
};

/// The shard's end of one connection: where its frames wait.
///
/// In the order in which they lie in memory: what a delivery touches comes first, so that it is two
/// lines of the cache, with the counts of the `Rc` before it.
#[derive(Debug)]
#[repr(C)]
pub struct Port<S> {
    pub(super) key: ConnectionKey,
    pub(super) format: Format,
    pub(super) is_urgent: Cell<bool>,
    pub(super) is_dirty: Cell<bool>,
    /// The socket took less than was written last time.
    pub is_blocked: Cell<bool>,
    pub(super) history_reads: Cell<u8>,
    pub(super) closing: Cell<Option<CloseCode>>,
    /// The frames.
    pub outbox: RefCell<Outbox>,
    /// What the frames are written to.
    pub socket: S,
    /// Rung when the connection's task must look: at a blocked outbox, or at a close.
    pub wake: Bell,
    pub(super) subscriptions: RefCell<Subscriptions>,
}

impl<S> Port<S> {
    /// The end of a connection that was just taken in.
    pub(super) fn new(
        key: ConnectionKey,
        format: Format,
        socket: S,
        outbox_bytes_max: usize,
    ) -> Self {
        Self {
            key,
            format,
            is_urgent: Cell::new(false),
            is_dirty: Cell::new(false),
            is_blocked: Cell::new(false),
            history_reads: Cell::new(0),
            closing: Cell::new(None),
            outbox: RefCell::new(Outbox::new(outbox_bytes_max)),
            socket,
            wake: Bell::default(),
            subscriptions: RefCell::default(),
        }
    }

    /// Which connection it is.
    pub const fn key(&self) -> ConnectionKey {
        self.key
    }

    /// Why this connection is being closed, if it is.
    pub const fn closing(&self) -> Option<CloseCode> {
        self.closing.get()
    }

    /// What an answer to a command of this connection needs to find it.
    pub(super) const fn ticket(&self, id: u32, asked: Asked) -> Ticket {
        Ticket { connection: self.key, id, asked }
    }

    /// How its envelopes are written.
    pub const fn encoding(&self) -> Encoding {
        self.format.encoding
    }
}

/// The channels that a connection is subscribed to. A few need no memory of their own.
#[derive(Debug)]
pub(super) enum Subscriptions {
    /// The first `count` of these.
    Few { channels: [ChannelId; FEW], count: u8 },
    /// These, ascending.
    Many(Vec<ChannelId>),
}

/// As many channels as fit into the place of a vector.
const FEW: usize = 3;

impl Default for Subscriptions {
    fn default() -> Self {
        Self::Few { channels: [ChannelId(0); FEW], count: 0 }
    }
}

impl Subscriptions {
    /// All of them.
    pub(super) fn as_slice(&self) -> &[ChannelId] {
        match self {
            Self::Few { channels, count } => &channels[..usize::from(*count)],
            Self::Many(channels) => channels,
        }
    }

    /// Adds a channel. Whether it was not there.
    pub(super) fn insert(&mut self, channel: ChannelId) -> bool {
        match self {
            Self::Few { channels, count } => {
                let place = usize::from(*count);
                if channels[..place].contains(&channel) {
                    return false;
                }
                if place < FEW {
                    channels[place] = channel;
                    *count += 1;
                } else {
                    let mut many = channels.to_vec();
                    many.push(channel);
                    many.sort_unstable();
                    *self = Self::Many(many);
                }
                true
            }
            Self::Many(channels) => match channels.binary_search(&channel) {
                Ok(_) => false,
                Err(place) => {
                    channels.insert(place, channel);
                    true
                }
            },
        }
    }

    /// Takes a channel out. Whether it was there.
    pub(super) fn remove(&mut self, channel: ChannelId) -> bool {
        match self {
            Self::Few { channels, count } => {
                let place = usize::from(*count);
                let Some(found) = channels[..place].iter().position(|it| *it == channel) else {
                    return false;
                };
                channels.swap(found, place - 1);
                *count -= 1;
                true
            }
            Self::Many(channels) => {
                let Ok(found) = channels.binary_search(&channel) else { return false };
                channels.remove(found);
                if channels.is_empty() {
                    *self = Self::default();
                }
                true
            }
        }
    }
}

/// Wakes the one task that waits for it, on the same thread. If none waits, the next wait is over at
/// once.
#[derive(Default)]
pub struct Bell {
    /// Nobody has come for the last notification yet.
    is_rung: Cell<bool>,
    waiter: Cell<Option<Waker>>,
}

impl Bell {
    /// Wakes who waits.
    pub fn notify_one(&self) {
        self.is_rung.set(true);
        if let Some(waiter) = self.waiter.take() {
            waiter.wake_by_ref();
            // It is the same task the next time.
            self.waiter.set(Some(waiter));
        }
    }

    /// Whether there was a notification since the last that was seen. If not, the task of `cx` is
    /// woken by the next one, and no task that asked before it.
    pub fn poll_notified(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_rung.take() {
            return Poll::Ready(());
        }
        let known = self.waiter.take().filter(|known| known.will_wake(cx.waker()));
        self.waiter.set(Some(known.unwrap_or_else(|| cx.waker().clone())));
        Poll::Pending
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").field("is_rung", &self.is_rung).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        task::Wake,
    };

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn subscriptions_are_a_set(
            operations in prop::collection::vec((prop::bool::weighted(0.6), 0_u32..8), 0..60),
        ) {
            let mut subscriptions = Subscriptions::default();
            let mut oracle = BTreeSet::new();
            for (inserts, id) in operations {
                let channel = ChannelId(id);
                if inserts {
                    prop_assert_eq!(subscriptions.insert(channel), oracle.insert(channel));
                } else {
                    prop_assert_eq!(subscriptions.remove(channel), oracle.remove(&channel));
                }
                prop_assert_eq!(subscriptions.as_slice().len(), oracle.len());
                let listed: BTreeSet<_> = subscriptions.as_slice().iter().copied().collect();
                prop_assert_eq!(&listed, &oracle);
            }
        }
    }

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_notification_wakes_who_waits_and_is_kept_for_who_comes_later() {
        let bell = Bell::default();
        let woken = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        bell.notify_one();
        assert!(bell.poll_notified(&mut cx).is_ready(), "it came before the wait");
        for wakes in 1..3 {
            assert!(bell.poll_notified(&mut cx).is_pending());
            bell.notify_one();
            assert_eq!(woken.0.load(Ordering::Relaxed), wakes);
            assert!(bell.poll_notified(&mut cx).is_ready());
        }
        assert!(bell.poll_notified(&mut cx).is_pending(), "one notification is one");
    }

    #[test]
    fn what_a_delivery_touches_is_the_first_half_of_a_port() {
        assert_eq!(size_of::<Subscriptions>(), size_of::<Vec<ChannelId>>());
        // With the two counts of the `Rc`, and without the socket.
        assert!(2 * size_of::<usize>() + std::mem::offset_of!(Port<()>, socket) <= 80);
        let port = size_of::<Port<()>>();
        assert!(port <= 120, "{port}");
    }
}
