//! One connection's socket: the only place that reads and writes it. Hot.
//!
//! Neither call waits. What comes or goes is plain; whether it is so on the wire is known here
//! alone. With TLS, all that is handed over at once leaves as one record, one encryption and one
//! send; what the kernel does not take of it stays with the session, encrypted, and goes first next
//! time.

use std::{
    cell::RefCell,
    io::{self, IoSlice, Read, Write},
    mem, net,
    task::{Context, Poll},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown},
};
use rustls::ServerConnection;
use tokio::{
    io::{Interest, Ready},
    net::TcpStream,
};

use crate::limits::TLS_READ_BYTES_MAX;

/// An open socket.
#[derive(Debug)]
pub struct Socket {
    tcp: TcpStream,
    // Reading and writing use the same session. Borrowed within one call, never over another.
    tls: Option<Box<RefCell<Session>>>,
}

impl Socket {
    /// Takes a non-blocking socket over into the runtime of this thread, with the session of its
    /// TLS handshake if it had one.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub fn new(stream: net::TcpStream, tls: Option<Box<ServerConnection>>) -> io::Result<Self> {
        let session = |tls: Box<ServerConnection>| Session { tls: *tls, took_some: false };
        let tls = tls.map(|tls| Box::new(RefCell::new(session(tls))));
        Ok(Self { tcp: TcpStream::from_std(stream)?, tls })
    }

    /// Waits until one of these may be possible.
    ///
    /// # Errors
    /// When the runtime ends.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        self.tcp.ready(interest).await
    }

    /// Whether there is something to read, or an end. If not, the task of `cx` is woken when there is,
    /// and no task that asked before it.
    ///
    /// # Errors
    /// When the runtime ends.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_read_ready(cx)
    }

    /// The same for room to write.
    ///
    /// # Errors
    /// When the runtime ends.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_write_ready(cx)
    }

    /// Reads what is there. 0: the other end has finished. There must be room for
    /// [`TLS_READ_BYTES_MAX`].
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, or what the socket says, or the session: then the
    /// connection is at its end.
    pub fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match &self.tls {
            None => receive(&self.tcp, bytes),
            Some(session) => session.borrow_mut().read(&self.tcp, bytes),
        }
    }

    /// Writes what the socket takes of these, in order. A TLS session may take more than the socket
    /// does: [`Socket::try_flush`] tells.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing now, or what the socket says.
    pub fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.tls {
            None => transmit(&self.tcp, slices),
            Some(session) => session.borrow_mut().write(&self.tcp, slices),
        }
    }

    /// Sends what a TLS session holds. Without one there is nothing to do.
    ///
    /// # Errors
    /// `WouldBlock` when the session holds more than the socket takes now, or what the socket says.
    pub fn try_flush(&self) -> io::Result<()> {
        match &self.tls {
            None => Ok(()),
            Some(session) => session.borrow_mut().send(&self.tcp),
        }
    }

    /// Whether the socket took anything of what a TLS session held, since this was last asked.
    pub fn took_some(&self) -> bool {
        let session = self.tls.as_ref();
        session.is_some_and(|session| mem::take(&mut session.borrow_mut().took_some))
    }

    /// Says that nothing follows.
    ///
    /// # Errors
    /// `WouldBlock` when a TLS session could not say so yet: flush, and call it again. Otherwise
    /// the socket is gone.
    pub fn finish(&self) -> io::Result<()> {
        if let Some(session) = &self.tls {
            let mut session = session.borrow_mut();
            session.tls.send_close_notify();
            session.send(&self.tcp)?;
        }
        Ok(shutdown(&self.tcp, Shutdown::Write)?)
    }
}

/// What TLS knows of a connection.
#[derive(Debug)]
struct Session {
    tls: ServerConnection,
    /// The socket took some of what was encrypted.
    took_some: bool,
}

impl Session {
    /// Decrypts what is there. Leaves nothing decrypted behind: nobody would come for it.
    fn read(&mut self, tcp: &TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
        debug_assert!(bytes.len() >= TLS_READ_BYTES_MAX, "there is room for one read");
        let mut wire = Wire { tcp, is_drained: false };
        let mut count = 0;
        let mut has_ended = false;
        while !has_ended && bytes.len() - count >= TLS_READ_BYTES_MAX {
            match self.tls.read_tls(&mut wire) {
                Ok(0) => has_ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            let processed = self.tls.process_new_packets();
            if processed.is_err() {
                // The session has written an alert: say why, if the socket takes it.
                let _ = self.send(tcp);
            }
            let state =
                processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            count += self.take_plain(&mut bytes[count..])?;
            if state.peer_has_closed() {
                has_ended = true;
                self.tls.send_close_notify();
            }
        }
        // What reading gave rise to: an answer to a change of keys, or to the end. A full socket is
        // written on by whoever filled it.
        let _ = self.send(tcp);
        if count == 0 && !has_ended { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }

    /// Takes everything that is decrypted.
    fn take_plain(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        loop {
            match self.tls.reader().read(&mut bytes[count..]) {
                Ok(0) => return Ok(count),
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                // The client ended without saying so: an end all the same.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(count),
                Err(error) => return Err(error),
            }
        }
    }

    fn write(&mut self, tcp: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // First what was encrypted before. So what is taken now follows on a socket that had room.
        self.send(tcp)?;
        let taken = self.tls.writer().write_vectored(slices)?;
        match self.send(tcp) {
            // Taken it is, and must not be handed over again.
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(taken),
        }
    }

    /// Sends what is encrypted.
    fn send(&mut self, tcp: &TcpStream) -> io::Result<()> {
        let mut wire = Wire { tcp, is_drained: false };
        while self.tls.wants_write() {
            self.tls.write_tls(&mut wire)?;
            self.took_some = true;
        }
        Ok(())
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The socket, as a session reads and writes it.
struct Wire<'a> {
    tcp: &'a TcpStream,
    /// The last read got all there was.
    is_drained: bool,
}

impl Read for Wire<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        // The session asks once more, so that it shrinks its buffer. The kernel need not be asked.
        if self.is_drained {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = receive(self.tcp, bytes)?;
        self.is_drained = (1..bytes.len()).contains(&count);
        Ok(count)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        transmit(self.tcp, &[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        transmit(self.tcp, slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn receive(tcp: &TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
    let (count, _) =
        tcp.try_io(Interest::READABLE, || Ok(recv(tcp, &mut *bytes, RecvFlags::empty())?))?;
    if (1..bytes.len()).contains(&count) {
        // That was all there is: say so, and save the read that would find nothing.
        let _ = tcp.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
    Ok(count)
}

/// `send` and `sendmsg` rather than `write` and `writev`: they go to the socket without passing
/// through the layer of files, which saves one part in twelve of a small write.
fn transmit(tcp: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let sent = match slices {
        [one] => send(tcp, one, SendFlags::NOSIGNAL),
        _ => {
            let mut nothing = SendAncillaryBuffer::default();
            sendmsg(tcp, slices, &mut nothing, SendFlags::NOSIGNAL)
        }
    };
    // The socket is asked, and not the runtime whether it believes that it is writable. Only when
    // it was wrong is it told. This is sound because the runtime looks at its sockets on this
    // thread, so it cannot have learnt of new room between these two lines.
    match sent {
        Err(Errno::AGAIN) => {
            tcp.try_io(Interest::WRITABLE, || Err(io::ErrorKind::WouldBlock.into()))
        }
        sent => Ok(sent?),
    }
}

#[cfg(test)]
mod tests;
