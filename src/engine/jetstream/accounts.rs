//! The rows of the account stores, in a stream that keeps the last message of each subject.
//!
//! A position is a sequence of the stream, and a commit an atomic batch that expects the stream to end
//! there. The leader says where the stream ends; rows come from any replica, and from the leader if that
//! one is behind. The news that a row is gone is a message that the servers forget after a time.

use std::{fmt, sync::mpsc::sync_channel, time::Instant};

use tokio::runtime::Handle;

use super::{
    api::{Api, ApiError, Publish, PublishError, Stored},
    subject::{self, Subjects},
};
use crate::{
    engine::rows::{CommitError, Page, Row, Rows, RowsError},
    limits,
};

/// The rows of one cluster. Cheap to clone.
#[derive(Clone)]
pub struct Accounts {
    api: Api,
    subjects: Subjects,
    /// What drives the connection.
    runtime: Handle,
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").field("subjects", &self.subjects).finish_non_exhaustive()
    }
}

impl Accounts {
    /// The rows in this cluster's stream. Called on the runtime that drives the connection.
    pub(super) fn new(api: Api, subjects: Subjects) -> Self {
        Self { api, subjects, runtime: Handle::current() }
    }

    async fn page_after(self, position: u64) -> Result<Page, RowsError> {
        let (stream, subjects) = (self.subjects.accounts_stream(), self.subjects.accounts());
        let info = self.api.stream(&stream).await?;
        let info = info.ok_or_else(|| RowsError::Refused("there is no such stream".to_owned()))?;
        let end = info.state.last_seq;
        let mut stored = Vec::new();
        if position < end {
            let page = self.api.page(
                &stream,
                position + 1,
                &subjects,
                limits::ACCOUNT_ROWS_PER_PAGE_MAX,
                limits::ACCOUNT_ROWS_PAGE_BYTES_MAX,
            );
            stored = match page.await {
                Ok((page, _)) => page,
                // Another replica may answer, and the leader does.
                Err(ApiError::Unavailable) => Vec::new(),
                Err(error) => return Err(error.into()),
            };
            if stored.is_empty() {
                stored.extend(self.api.next(&stream, position + 1, &subjects).await?);
            }
        }
        // Where the leader has no more, all that was there is forgotten by now.
        let position = stored.last().map_or(end, |stored| stored.sequence);
        let rows = stored.into_iter().map(|stored| self.row(stored));
        Ok(Page {
            history: info.created,
            rows: rows.collect::<Result<_, _>>()?,
            position,
            is_end: position >= end,
            end: end.max(position),
        })
    }

    fn row(&self, stored: Stored) -> Result<Row, RowsError> {
        let named = self.subjects.account_of(&stored.subject);
        let (table, key) = named.ok_or_else(|| RowsError::Refused(stored.subject.clone()))?;
        let is_passing = stored.header(subject::REMOVED).is_some();
        Ok(Row { table: table.to_owned(), key, value: stored.payload.clone(), is_passing })
    }

    async fn publish(self, rows: Vec<Row>, after: u64) -> Result<u64, CommitError> {
        let ttl = format!("{}s", limits::REMOVED_ROWS_KEPT.as_secs());
        let message = |row: Row| Publish {
            subject: self.subjects.account(&row.table, &row.key),
            headers: if row.is_passing {
                vec![(subject::REMOVED, "1".to_owned()), (subject::TTL, ttl.clone())]
            } else {
                Vec::new()
            },
            payload: row.value,
            expect: None,
        };
        let messages = rows.into_iter().map(message).collect();
        Ok(self.api.publish_all(messages, Some(after)).await?)
    }

    /// Does this on the runtime. None: it is not done by the deadline.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
        deadline: Instant,
    ) -> Option<T> {
        let (reply, answer) = sync_channel(1);
        self.runtime.spawn(async move {
            // Who asked may have gone.
            let _ = reply.try_send(work.await);
        });
        answer.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }
}

impl Rows for Accounts {
    fn read_after(&self, position: u64, deadline: Instant) -> Result<Page, RowsError> {
        let page = self.wait(self.clone().page_after(position), deadline);
        page.unwrap_or(Err(RowsError::Unavailable))
    }

    fn commit(&self, rows: Vec<Row>, after: u64, deadline: Instant) -> Result<u64, CommitError> {
        let committed = self.wait(self.clone().publish(rows, after), deadline);
        committed.unwrap_or(Err(CommitError::Unknown))
    }
}

impl From<ApiError> for RowsError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Unavailable => Self::Unavailable,
            error @ (ApiError::Refused { .. } | ApiError::Malformed) => {
                Self::Refused(error.to_string())
            }
        }
    }
}

impl From<PublishError> for CommitError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Moved => Self::Moved,
            PublishError::Unknown => Self::Unknown,
            error @ (PublishError::TooLarge | PublishError::Refused { .. }) => {
                Self::Not(RowsError::Refused(error.to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        sync::Arc,
        time::Duration,
    };

    use bytes::Bytes;
    use bytesize::ByteSize;
    use testnats::{Nats, Options};

    use super::{
        super::streams::{self, Plan},
        *,
    };
    use crate::{
        auth::{Auth, Settings, password::Cost},
        clock,
    };

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn deadline() -> Instant {
        Instant::now() + Duration::from_secs(2)
    }

    fn row(key: &str, value: &'static str) -> Row {
        Row {
            table: "sessions".to_owned(),
            key: key.to_owned(),
            value: Bytes::from_static(value.as_bytes()),
            is_passing: value.is_empty(),
        }
    }

    async fn accounts(url: &str) -> Accounts {
        let servers: Vec<&str> = url.split(',').collect();
        let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
        let client = options.connect(servers).await.unwrap();
        let (api, subjects) = (Api::new(client), Subjects::new("h"));
        let plan = Plan { subjects: &subjects, logs: 1, single: true };
        streams::make(&api, plan).await.unwrap();
        Accounts::new(api, subjects)
    }

    #[test]
    fn rows_are_committed_after_what_the_committer_knows_or_not_at_all() {
        if testnats::program().is_none() {
            println!("{}", testnats::MISSING);
            return;
        }
        let nats = Nats::start(&Options::new(1)).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let [one, other] = [0, 1].map(|_| runtime.block_on(accounts(&nats.url())));
        let empty = one.read_after(0, deadline()).unwrap();
        assert!(empty.is_end && empty.rows.is_empty() && empty.end == 0);

        let rows = vec![row("a.b", "one"), row("", "two")];
        assert_eq!(one.commit(rows.clone(), 0, deadline()), Ok(2));
        assert_eq!(other.commit(vec![row("c", "late")], 0, deadline()), Err(CommitError::Moved));
        let page = other.read_after(0, deadline()).unwrap();
        assert_eq!((page.rows, page.position, page.is_end), (rows, 2, true));
        assert_eq!(page.history, empty.history);

        // Of a row that is written again the last version is kept, and that it is gone is told.
        assert_eq!(other.commit(vec![row("a.b", ""), row("c", "three")], 2, deadline()), Ok(4));
        let page = one.read_after(0, deadline()).unwrap();
        assert_eq!(page.rows, [row("", "two"), row("a.b", ""), row("c", "three")]);
        let page = one.read_after(3, deadline()).unwrap();
        assert_eq!((page.rows, page.position), (vec![row("c", "three")], 4));
        // Where another history was known there is nothing to read, and it shows.
        let page = one.read_after(9, deadline()).unwrap();
        assert!(page.is_end && page.end == 4 && page.rows.is_empty());

        drop(nats);
        let soon = Instant::now() + Duration::from_millis(100);
        assert_eq!(one.read_after(0, soon).unwrap_err(), RowsError::Unavailable);
        assert_eq!(one.commit(vec![row("d", "x")], 4, soon), Err(CommitError::Unknown));
    }

    #[test]
    fn two_nodes_are_one_auth_service_and_outlive_their_server() {
        if testnats::program().is_none() {
            println!("{}", testnats::MISSING);
            return;
        }
        let mut nats = Nats::start(&Options::new(1)).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let rows: Arc<dyn Rows> = Arc::new(runtime.block_on(accounts(&nats.url())));
        let cost = Cost { memory: ByteSize::kib(64), passes: 1, lanes: 1 };
        let settings = Settings { cost, ..Settings::default() };
        let dirs = [0, 1].map(|_| tempfile::tempdir().unwrap());
        let [one, other] = [0, 1].map(|at: usize| {
            let (settings, rows) = (settings.clone(), Arc::clone(&rows));
            Auth::start_replica(settings, dirs[at].path(), rows, || {}).unwrap()
        });
        let password = || "correct horse".to_owned();
        runtime.block_on(async {
            let now_s = clock::unix_s();
            one.register("anna", password(), None, HERE, now_s).await.unwrap();
            let again = other.register("Anna", password(), None, HERE, now_s).await;
            assert!(again.is_err(), "{again:?}");
            let tokens = other.log_in("anna", password(), HERE, now_s).await.unwrap();
            one.me(&tokens.access_token, now_s).await.unwrap();
            let next = one.refresh(&tokens.refresh_token, HERE, now_s).await.unwrap();
            other.refresh(&tokens.refresh_token, HERE, now_s).await.unwrap_err();
            one.refresh(&next.refresh_token, HERE, now_s).await.unwrap_err();
            let feed = other.revocations(0).await.unwrap();
            assert_eq!(feed.last, 1);
        });

        nats.kill_all().unwrap();
        runtime.block_on(async {
            let refused = one.log_in("anna", password(), HERE, clock::unix_s()).await;
            assert!(refused.is_err(), "{refused:?}");
        });
        nats.launch(0).unwrap();
        nats.wait(0).unwrap();
        runtime.block_on(async {
            let until = Instant::now() + Duration::from_secs(20);
            while one.log_in("anna", password(), HERE, clock::unix_s()).await.is_err() {
                assert!(Instant::now() < until, "the connection does not come back");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let feeds = (one.revocations(0).await.unwrap(), other.revocations(0).await.unwrap());
            assert_eq!(feeds.0.last, feeds.1.last);
        });
    }
}
