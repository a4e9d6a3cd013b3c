//! A socket without TLS, on which the kernel can be told that more follows.
//!
//! The answer to a handshake that brought a good token is followed at once by the hub's welcome. Each
//! would be a packet, a wake-up of the client and a tenth of what the connection costs. So the kernel
//! keeps that one answer back until the hub writes, and if the hub does not, for 200 ms.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// Says that what is written next on a connection is the last that the edge writes, and that the hub
/// has something to say behind it. Whoever answers a request finds it among the request's extensions.
#[derive(Clone, Debug, Default)]
pub(super) struct HubFollows(Arc<AtomicBool>);

impl HubFollows {
    /// Says so.
    pub(super) fn say(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A socket without TLS.
#[derive(Debug)]
pub(super) struct Plain {
    tcp: TcpStream,
    hub_follows: HubFollows,
}

impl Plain {
    /// This socket, for as long as the edge has it.
    pub(super) fn new(tcp: TcpStream, hub_follows: HubFollows) -> Self {
        Self { tcp, hub_follows }
    }

    /// The socket alone.
    pub(super) fn into_inner(self) -> TcpStream {
        self.tcp
    }

    fn write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let more = self.hub_follows.0.load(Ordering::Relaxed);
        let flags = if more { SendFlags::MORE } else { SendFlags::empty() } | SendFlags::NOSIGNAL;
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            let sent = self.tcp.try_io(Interest::WRITABLE, || {
                let mut nothing = SendAncillaryBuffer::default();
                Ok(sendmsg(&self.tcp, slices, &mut nothing, flags)?)
            });
            match sent {
                // The runtime was wrong about it, and knows now.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, bytes)
    }
}

impl AsyncWrite for Plain {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket keeps nothing that a flush could send.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rustix::{
        io::Errno,
        net::{RecvFlags, recv},
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::timeout,
    };

    use super::*;

    async fn pair() -> (TcpStream, Plain, HubFollows) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let hub_follows = HubFollows::default();
        (client, Plain::new(tcp, hub_follows.clone()), hub_follows)
    }

    #[tokio::test]
    async fn an_answer_that_the_hub_follows_comes_with_what_the_hub_writes() {
        let (mut client, mut plain, hub_follows) = pair().await;
        let mut bytes = [0; 64];
        plain.write_all(b"first ").await.unwrap();
        let count = client.read(&mut bytes).await.unwrap();
        assert_eq!(&bytes[..count], b"first ", "nothing follows, so it comes at once");

        hub_follows.say();
        let begun = Instant::now();
        plain.write_all(b"answer ").await.unwrap();
        plain.flush().await.unwrap();
        let early = recv(&client, &mut bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        // Unless this test was held up for longer than the kernel waits.
        let is_late = begun.elapsed() > Duration::from_millis(150);
        assert!(is_late || early == Err(Errno::AGAIN), "{early:?}");
        let mut hub = plain.into_inner();
        hub.write_all(b"welcome").await.unwrap();
        let count = client.read(&mut bytes).await.unwrap();
        assert_eq!(&bytes[..count], b"answer welcome");
    }

    #[tokio::test]
    async fn an_answer_that_nothing_follows_after_all_comes_all_the_same() {
        let (mut client, mut plain, hub_follows) = pair().await;
        hub_follows.say();
        plain.write_all(b"answer").await.unwrap();
        let mut bytes = [0; 64];
        let read = timeout(Duration::from_secs(5), client.read(&mut bytes)).await;
        assert_eq!(&bytes[..read.expect("the kernel lets it go").unwrap()], b"answer");
    }
}
