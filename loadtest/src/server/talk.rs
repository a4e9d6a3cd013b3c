//! A conversation with a server over HTTP/1.1 on one connection that stays open.
//!
//! Hot where latencies are measured: an answer is read into one buffer that is kept, and parsed as
//! the virtual users parse theirs.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::swarm::http::response;

/// How long an answer may take, unless somebody says otherwise.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long an answer may take once the body could not be sent: who refuses says why at once.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(2);
/// What the buffer grows by at least.
const READ_BYTES: usize = 16 * 1024;

/// One connection at most, made when it is needed, and given up when something goes wrong on it.
#[derive(Debug)]
pub(crate) struct Talk {
    address: SocketAddr,
    /// Shown with every request: a token, or the admin secret.
    bearer: String,
    pub(crate) deadline: Duration,
    stream: Option<TcpStream>,
    request: Vec<u8>,
    /// What has come and belongs to no answer yet.
    come: Vec<u8>,
}

/// An answer, whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    closes: bool,
}

/// What a body is, and how its length is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Length {
    Known(u64),
    /// In chunks, each as long as its block.
    Chunked,
}

impl Talk {
    pub(crate) fn new(address: SocketAddr, bearer: &str) -> Self {
        let bearer = bearer.to_owned();
        let (request, come) = (Vec::new(), Vec::new());
        Self { address, bearer, deadline: DEADLINE, stream: None, request, come }
    }

    /// Makes the connection, so that the next request does not have to.
    pub(crate) async fn connect(&mut self) -> Result<()> {
        if self.stream.is_none() {
            let stream = timeout(self.deadline, TcpStream::connect(self.address)).await;
            let stream = stream.context("it takes no connections")??;
            stream.set_nodelay(true)?;
            self.come.clear();
            self.stream = Some(stream);
        }
        Ok(())
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer> {
        self.ask("GET", path, &[], None).await
    }

    pub(crate) async fn post(&mut self, path: &str, json: &Value) -> Result<Answer> {
        self.ask("POST", path, &[], Some(&json.to_string())).await
    }

    /// A request, with these headers more, and its answer.
    ///
    /// # Errors
    /// If there is no connection, or no answer, which leaves open whether the request was done.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        json: Option<&str>,
    ) -> Result<Answer> {
        let length = json.map(|json| Length::Known(json.len() as u64));
        self.write_head(method, path, headers, length.map(|it| ("application/json", it)));
        self.request.extend_from_slice(json.unwrap_or_default().as_bytes());
        self.connect().await?;
        let stream = self.stream.as_mut().context("it has just been connected")?;
        let exchange = async {
            stream.write_all(&self.request).await?;
            read_answer(stream, &mut self.come).await
        };
        let answer = timeout(self.deadline, exchange).await;
        self.keep_if_well(answer.context("it does not answer").flatten())
    }

    /// Posts a body that is made as it is sent. `next` puts the next block into an empty buffer, and
    /// leaves it empty at the end. An answer that comes before the end of the body ends the sending.
    /// The deadline is one for all of it.
    pub(crate) async fn stream(
        &mut self,
        path: &str,
        content_type: &str,
        length: Length,
        mut next: impl FnMut(&mut Vec<u8>) -> Result<()>,
    ) -> Result<Answer> {
        self.write_head("POST", path, &[], Some((content_type, length)));
        self.connect().await?;
        // Put back only if it can be used again.
        let mut stream = self.stream.take().context("it has just been connected")?;
        let conversing = converse(&mut stream, &self.request, &mut self.come, length, &mut next);
        let (answer, is_sent) = match timeout(self.deadline, conversing).await {
            Ok(ended) => ended,
            Err(late) => (Err(late).context("it does not come to an end"), false),
        };
        if is_sent && answer.as_ref().is_ok_and(|answer| !answer.closes) {
            self.stream = Some(stream);
        }
        answer
    }

    fn write_head(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        content: Option<(&str, Length)>,
    ) {
        let Self { address, bearer, request, .. } = self;
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {bearer}\r\n"
        );
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if let Some((content_type, length)) = content {
            head += &format!("Content-Type: {content_type}\r\n");
            head += &match length {
                Length::Known(bytes) => format!("Content-Length: {bytes}\r\n"),
                Length::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            };
        }
        request.clear();
        request.extend_from_slice(head.as_bytes());
        request.extend_from_slice(b"\r\n");
    }

    fn keep_if_well(&mut self, answer: Result<Answer>) -> Result<Answer> {
        if answer.as_ref().map_or(true, |answer| answer.closes) {
            self.stream = None;
        }
        answer
    }
}

/// Sends head and body while it listens for the answer. Says also whether all was sent.
async fn converse(
    stream: &mut TcpStream,
    head: &[u8],
    come: &mut Vec<u8>,
    length: Length,
    next: &mut impl FnMut(&mut Vec<u8>) -> Result<()>,
) -> (Result<Answer>, bool) {
    let (mut reader, mut writer) = stream.split();
    let sending = async {
        writer.write_all(head).await?;
        let mut block = Vec::new();
        loop {
            block.clear();
            next(&mut block)?;
            if length == Length::Chunked {
                // The empty block is the last chunk.
                writer.write_all(format!("{:x}\r\n", block.len()).as_bytes()).await?;
                writer.write_all(&block).await?;
                writer.write_all(b"\r\n").await?;
            } else {
                writer.write_all(&block).await?;
            }
            if block.is_empty() {
                return anyhow::Ok(());
            }
        }
    };
    let answering = read_answer(&mut reader, come);
    tokio::pin!(sending, answering);
    let sent = tokio::select! {
        answer = &mut answering => return (answer, false),
        sent = &mut sending => sent,
    };
    let Err(error) = sent else { return (answering.await, true) };
    // Who refuses says why, perhaps, before the connection breaks.
    let answer = match timeout(REFUSAL_DEADLINE, answering).await {
        Ok(Ok(answer)) => Ok(answer),
        _ => Err(error.context("the body cannot be sent")),
    };
    (answer, false)
}

async fn read_answer(from: &mut (impl AsyncRead + Unpin), come: &mut Vec<u8>) -> Result<Answer> {
    loop {
        if let Some(answer) = response(come)? {
            let body = answer.body.to_vec();
            let (bytes, status, closes) = (answer.bytes, answer.status, answer.closes);
            come.drain(..bytes);
            return Ok(Answer { status, body, closes });
        }
        come.reserve(READ_BYTES);
        if from.read_buf(come).await? == 0 {
            bail!("the connection ended before the answer");
        }
    }
}

impl Answer {
    /// What it says, if it has this status.
    pub(crate) fn expect<T: DeserializeOwned>(&self, status: u16) -> Result<T> {
        let said = String::from_utf8_lossy(&self.body);
        if self.status != status {
            bail!("the answer is {} and not {status}: {}", self.status, said.trim_end());
        }
        serde_json::from_slice(&self.body).with_context(|| format!("the answer is `{said}`"))
    }

    /// Whether it is a problem of this name.
    pub(crate) fn is_problem(&self, name: &str) -> bool {
        let problem: Option<Value> = serde_json::from_slice(&self.body).ok();
        problem.is_some_and(|it| it["name"] == name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::net::TcpListener;

    use super::*;

    /// What stands in for a server gets of each request.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub(crate) struct Asked {
        pub(crate) head: String,
        pub(crate) body: String,
    }

    impl Asked {
        /// `POST /v1/import`.
        pub(crate) fn line(&self) -> &str {
            let line = self.head.lines().next().unwrap_or_default();
            line.strip_suffix(" HTTP/1.1").unwrap_or(line)
        }

        pub(crate) fn header(&self, name: &str) -> Option<&str> {
            let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
            headers.find(|it| it.0.eq_ignore_ascii_case(name)).map(|it| it.1)
        }
    }

    /// A server that answers each request by this: a status and a body. None: it hangs up.
    pub(crate) async fn stand_in(
        answer: impl FnMut(&Asked) -> Option<(u16, String)> + Send + 'static,
    ) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    let mut stream = tokio::io::BufStream::new(stream);
                    while let Some(asked) = asked(&mut stream).await {
                        let said = (answer.lock().unwrap())(&asked);
                        let Some((status, body)) = said else { return };
                        let head = format!(
                            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n",
                            body.len()
                        );
                        let _ = stream.write_all((head + &body).as_bytes()).await;
                        let _ = stream.flush().await;
                    }
                });
            }
        });
        address
    }

    async fn asked(stream: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Option<Asked> {
        use tokio::io::AsyncBufReadExt as _;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await.ok()? == 0 {
                return None;
            }
        }
        let mut asked = Asked { head, body: String::new() };
        let mut body = Vec::new();
        if asked.header("transfer-encoding").is_some() {
            loop {
                let mut size = String::new();
                stream.read_line(&mut size).await.ok()?;
                let bytes = usize::from_str_radix(size.trim(), 16).ok()?;
                let mut chunk = vec![0; bytes + 2];
                stream.read_exact(&mut chunk).await.ok()?;
                if bytes == 0 {
                    break;
                }
                body.extend_from_slice(&chunk[..bytes]);
            }
        } else if let Some(length) = asked.header("content-length") {
            body.resize(length.parse().ok()?, 0);
            stream.read_exact(&mut body).await.ok()?;
        }
        asked.body = String::from_utf8(body).ok()?;
        Some(asked)
    }

    fn echo(asked: &Asked) -> Option<(u16, String)> {
        let told = serde_json::json!({
            "line": asked.line(),
            "bearer": asked.header("authorization"),
            "key": asked.header("idempotency-key"),
            "body": asked.body,
        });
        Some((201, told.to_string()))
    }

    #[tokio::test]
    async fn requests_follow_one_another_on_one_connection() {
        let mut talk = Talk::new(stand_in(echo).await, "secret");
        for n in 0..3 {
            let (path, key) = (format!("/v1/{n}"), n.to_string());
            let headers = [("Idempotency-Key", &*key)];
            let answer = talk.ask("POST", &path, &headers, Some("{}")).await.unwrap();
            let told: Value = answer.expect(201).unwrap();
            assert_eq!(told["line"], format!("POST {path}"));
            assert_eq!((&told["bearer"], &told["key"]), (&"Bearer secret".into(), &key.into()));
            assert_eq!(told["body"], "{}");
        }
        let told: Value = talk.get("/x").await.unwrap().expect(201).unwrap();
        assert_eq!((&told["line"], &told["body"]), (&"GET /x".into(), &"".into()));
    }

    #[tokio::test]
    async fn a_body_is_streamed_with_and_without_a_length() {
        let mut talk = Talk::new(stand_in(echo).await, "secret");
        for length in [Length::Known(6), Length::Chunked] {
            let mut blocks = ["one", "two"].into_iter();
            let next = |block: &mut Vec<u8>| {
                block.extend_from_slice(blocks.next().unwrap_or_default().as_bytes());
                Ok(())
            };
            let answer = talk.stream("/v1/import", "application/x-ndjson", length, next).await;
            let told: Value = answer.unwrap().expect(201).unwrap();
            assert_eq!(told["body"], "onetwo", "{length:?}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_heard_before_the_body_has_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
            // It reads no more than this, and keeps the connection.
            std::future::pending::<()>().await;
        });
        let mut talk = Talk::new(address, "secret");
        let endless = |block: &mut Vec<u8>| {
            block.resize(64 * 1024, b'x');
            Ok(())
        };
        let answer = talk.stream("/v1/import", "text/plain", Length::Chunked, endless).await;
        let refused = answer.unwrap().expect::<Value>(200).unwrap_err();
        assert_eq!(refused.to_string(), "the answer is 401 and not 200: {}");
    }

    #[tokio::test]
    async fn who_hangs_up_is_told_and_asked_again_on_a_new_connection() {
        let mut asked = 0;
        let address = stand_in(move |_| {
            asked += 1;
            (asked > 1).then(|| (200, "{\"name\":\"busy\"}".to_owned()))
        });
        let mut talk = Talk::new(address.await, "secret");
        let ended = talk.get("/").await.unwrap_err();
        assert!(ended.to_string().contains("before the answer"), "{ended}");
        let answer = talk.get("/").await.unwrap();
        assert!(answer.is_problem("busy") && !answer.is_problem("quota_exhausted"));
    }
}
