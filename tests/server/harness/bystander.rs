//! Somebody else on the same server, who must lose nothing and see nothing of what goes wrong.

use hubbub::{
    client::{Client, Delivery, State, Subscription},
    engine::Engine,
    log::place::Sequence,
};

use super::{LOBBY, TestServer, within};

/// A client in the lobby.
pub(crate) struct Bystander {
    client: Client,
    subscription: Subscription,
    last: Sequence,
}

impl Bystander {
    /// Comes in.
    pub(crate) async fn join<E: Engine>(server: &TestServer<E>) -> Self {
        let client = server.client("bystander");
        let subscription =
            within("the bystander's subscription", client.subscribe(LOBBY, None)).await.unwrap();
        let last = subscription.start().sequence;
        Self { client, subscription, last }
    }

    /// Takes in one message that somebody else has rightly published.
    pub(crate) async fn resync(&mut self) {
        match within("a delivery", self.subscription.next()).await.unwrap().unwrap() {
            Delivery::Message(message) => assert_eq!(message.sequence, self.last.next()),
            other => panic!("the bystander was delivered {other:?}"),
        }
        self.last = self.last.next();
    }

    /// Still has its first connection, has seen nothing that it did not publish itself, and can
    /// publish and be delivered to.
    pub(crate) async fn is_untroubled(&mut self) {
        let body = format!("still here, after {}", self.last);
        let published = within("the bystander's publish", self.client.publish(LOBBY, &body)).await;
        let published = published.unwrap();
        assert_eq!(published.position.sequence, self.last.next(), "somebody else has published");
        assert_eq!(published.attempts, 1);
        match within("the bystander's message", self.subscription.next()).await.unwrap().unwrap() {
            Delivery::Message(message) => {
                assert_eq!((message.sequence, message.body), (self.last.next(), body));
            }
            other => panic!("the bystander was delivered {other:?}"),
        }
        self.last = self.last.next();
        let state = self.client.state().borrow().clone();
        assert!(matches!(state, State::Connected { connection: 1, .. }), "{state:?}");
    }
}
