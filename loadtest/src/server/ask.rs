//! One question to a server over HTTP: what its internal port and its public documents answer.
//!
//! HTTP/1.0 and a connection for each, so that the answer is what comes until the end. The virtual
//! users have their own requests, which are measured; these are not.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// No answer is longer. A profile of a minute has some megabytes at most.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Header lines of an answer.
const HEADERS_MAX: usize = 32;

/// What of a problem document (RFC 9457) a person wants to read.
#[derive(Deserialize)]
struct Problem {
    title: String,
    detail: Option<String>,
}

/// The body at this path of the server.
pub(crate) async fn get(server: SocketAddr, path: &str, deadline: Duration) -> Result<String> {
    let asked = async {
        let mut stream = TcpStream::connect(server).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {server}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let address = format!("http://{server}{path}");
    let answer = match tokio::time::timeout(deadline, asked).await {
        Ok(answer) => answer.with_context(|| format!("{address} cannot be read"))?,
        Err(_) => bail!("{address} did not answer within {deadline:?}"),
    };
    let (status, body) = parse(&answer).with_context(|| format!("what {address} answered"))?;
    if status == 200 {
        return Ok(body);
    }
    let said = match serde_json::from_str(&body) {
        Ok(Problem { detail: Some(detail), .. }) => detail,
        Ok(Problem { title, .. }) => title,
        Err(_) => body.trim_end().to_owned(),
    };
    bail!("{address} answered {status}: {said}")
}

/// Status and body of a whole answer.
fn parse(answer: &[u8]) -> Result<(u16, String)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = head.parse(answer)? else {
        bail!("the answer ends within its head");
    };
    let body = answer.get(head_bytes..).unwrap_or_default();
    let length = head.headers.iter().find(|it| it.name.eq_ignore_ascii_case("content-length"));
    if let Some(length) = length {
        let length: usize = std::str::from_utf8(length.value)?.trim().parse()?;
        if body.len() != length {
            bail!("the answer ends after {} of {length} bytes", body.len());
        }
    }
    let status = head.code.context("the answer has no status")?;
    Ok((status, String::from_utf8(body.to_vec()).context("the answer is no text")?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A server that gives this answer to whoever asks first.
    pub(crate) async fn answering(answer: &'static str) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // To close with a request unread would reset the connection.
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        address
    }

    async fn ask(answer: &'static str) -> Result<String> {
        get(answering(answer).await, "/metrics", Duration::from_secs(30)).await
    }

    #[tokio::test]
    async fn the_body_of_an_answer_is_taken_whole_or_not_at_all() {
        assert_eq!(ask("HTTP/1.0 200 OK\r\n\r\none two").await.unwrap(), "one two");
        let complete = "HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\none";
        assert_eq!(ask(complete).await.unwrap(), "one");
        let cut = ask("HTTP/1.0 200 OK\r\ncontent-length: 7\r\n\r\none").await.unwrap_err();
        assert!(format!("{cut:#}").contains("after 3 of 7 bytes"), "{cut:#}");
        let cut = ask("HTTP/1.0 200 OK\r\nconte").await.unwrap_err();
        assert!(format!("{cut:#}").contains("within its head"), "{cut:#}");
    }

    #[tokio::test]
    async fn a_refusal_says_what_the_problem_said() {
        let refused =
            ask("HTTP/1.0 503 Busy\r\n\r\n{\"title\":\"Busy.\",\"detail\":\"one at a time\"}");
        let refused = refused.await.unwrap_err();
        assert!(refused.to_string().ends_with("answered 503: one at a time"), "{refused}");
        let refused =
            ask("HTTP/1.0 404 No\r\n\r\n{\"title\":\"Nothing here.\"}").await.unwrap_err();
        assert!(refused.to_string().ends_with("answered 404: Nothing here."), "{refused}");
        let refused = ask("HTTP/1.0 502 No\r\n\r\nno upstream\n").await.unwrap_err();
        assert!(refused.to_string().ends_with("answered 502: no upstream"), "{refused}");
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let late = get(address, "/", Duration::from_millis(10)).await.unwrap_err();
        assert!(late.to_string().contains("did not answer within 10ms"), "{late}");
        drop(listener);
        let gone = get(address, "/", Duration::from_secs(30)).await.unwrap_err();
        assert!(gone.to_string().contains("cannot be read"), "{gone}");
    }
}
