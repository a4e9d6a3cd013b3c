//! Hubs are killed and restarted under writers: nothing that was acknowledged is lost, nothing is there
//! twice, and everybody gets everything in order.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hubbub::client::{Client, Delivery, Published};
use tokio::task::JoinHandle;

use crate::harness::{Cluster, LOBBY, PATIENCE, account, balance, client, history, url, within};

/// Who writes, and who only reads.
const WRITERS: usize = 4;
/// How long a writer rests between two messages.
const REST: Duration = Duration::from_millis(20);
/// How long all write before and after a fault.
const CALM: Duration = Duration::from_secs(1);

/// Writers and a reader behind a balancer, each of whom may be at any hub.
struct Talk {
    is_over: Arc<AtomicBool>,
    /// Until which message the reader reads, once that is known.
    until: Arc<AtomicU64>,
    writers: Vec<JoinHandle<Vec<(Published, String)>>>,
    reader: JoinHandle<Vec<(u64, String)>>,
    last: Client,
}

impl Talk {
    async fn begin(hubs: Vec<SocketAddr>) -> Self {
        let server = url(balance(hubs).await);
        let is_over = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            let name = format!("writer{number}");
            let token = account(&server, &name).await;
            let writer = client(server.clone(), &name, token);
            let is_over = Arc::clone(&is_over);
            writers.push(tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let body = format!("{name} {}", acknowledged.len());
                    let options = hubbub::client::PublishOptions {
                        timeout: Some(PATIENCE),
                        ..Default::default()
                    };
                    let published = writer.publish_with(LOBBY, &body, options).await.unwrap();
                    acknowledged.push((published, body));
                    tokio::time::sleep(REST).await;
                }
                acknowledged
            }));
        }
        let token = account(&server, "reader").await;
        let last = client(server, "reader", token);
        let mut lobby = within("a subscription", last.subscribe(LOBBY, None)).await.unwrap();
        let until = Arc::new(AtomicU64::new(u64::MAX));
        let end = Arc::clone(&until);
        let reader = tokio::spawn(async move {
            let mut heard: Vec<(u64, String)> = Vec::new();
            while heard.last().is_none_or(|(sequence, _)| *sequence < end.load(Ordering::Relaxed)) {
                match tokio::time::timeout(REST, lobby.next()).await {
                    Ok(Some(Ok(Delivery::Message(message)))) => {
                        heard.push((message.sequence.0, message.body));
                    }
                    Ok(other) => panic!("{other:?}"),
                    Err(_) => {}
                }
            }
            heard
        });
        tokio::time::sleep(CALM).await;
        Self { is_over, until, writers, reader, last }
    }

    /// Ends the talk, and looks at all that was said.
    async fn end(self) {
        tokio::time::sleep(CALM).await;
        self.is_over.store(true, Ordering::Relaxed);
        let stored = async {
            let mut acknowledged = Vec::new();
            for writer in self.writers {
                acknowledged.extend(writer.await.unwrap());
            }
            acknowledged
        };
        let acknowledged = within("the writers", stored).await;
        assert!(acknowledged.len() > WRITERS * 10, "{}", acknowledged.len());
        let stored = history(&self.last, LOBBY).await;
        let newest = stored.last().expect("something is stored").sequence.0;
        self.until.store(newest, Ordering::Relaxed);
        let heard = within("the reader", self.reader).await.unwrap();
        assert!(stored.iter().zip(1..).all(|(message, place)| message.sequence.0 == place));
        for (published, body) in &acknowledged {
            let place = usize::try_from(published.position.sequence.0).unwrap() - 1;
            assert_eq!(stored[place].body, *body, "it is where its writer was told");
        }
        let bodies: HashSet<_> = stored.iter().map(|message| &message.body).collect();
        assert_eq!(bodies.len(), stored.len(), "nothing is there twice");
        let first = heard.first().expect("the reader has heard something").0;
        let due = stored.iter().skip(usize::try_from(first).unwrap() - 1);
        let due: Vec<_> = due.map(|it| (it.sequence.0, it.body.clone())).collect();
        let differs = due.iter().zip(&heard).find(|(due, heard)| due != heard);
        assert_eq!((differs, due.len()), (None, heard.len()), "everything once, in order");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hubs_that_are_killed_lose_nothing() {
    let Some(mut cluster) = Cluster::start(2, 1) else { return };
    let talk = Talk::begin(cluster.addresses()).await;
    for number in [0, 1, 0] {
        cluster.hubs[number].kill();
        tokio::time::sleep(CALM).await;
        cluster.hubs[number].start();
    }
    talk.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_all_hubs_loses_and_repeats_nothing() {
    let Some(mut cluster) = Cluster::start(3, 1) else { return };
    let talk = Talk::begin(cluster.addresses()).await;
    for hub in &mut cluster.hubs {
        assert!(hub.stop().success(), "it drains in time");
        hub.start();
    }
    talk.end().await;
}
