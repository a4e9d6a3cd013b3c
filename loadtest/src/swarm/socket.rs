//! TCP connections that never wait, from as many loopback addresses as there are to be.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use mio::net::TcpStream;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with, sockopt},
};

/// What a slow reader's kernel takes for it. The kernel doubles it, and has a least of its own.
const SLOW_RECEIVE_BYTES: usize = 4 * 1024;

/// Where a connection comes from and how it reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    pub(crate) user: u32,
    /// Loopback addresses to choose among; 1 leaves the choice to the kernel.
    pub(crate) source_addresses: u32,
    pub(crate) is_slow: bool,
}

/// Begins to connect; the stream is writable when it has.
pub(crate) fn open(target: SocketAddr, origin: Origin) -> std::io::Result<(TcpStream, bool)> {
    open_from(target, source(target, origin), origin.is_slow)
}

/// The same from this address. Answers whether it is connected already: over the loopback a handshake
/// takes no longer than the call, if the other side has room.
pub(crate) fn open_from(
    target: SocketAddr,
    source: Option<SocketAddr>,
    is_slow: bool,
) -> std::io::Result<(TcpStream, bool)> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    if is_slow {
        // Before connecting, because it bounds the window that is told in the handshake.
        sockopt::set_socket_recv_buffer_size(&socket, SLOW_RECEIVE_BYTES)?;
    }
    if let Some(source) = source {
        bind(&socket, &source)?;
    }
    let is_open = match connect(&socket, &target) {
        Ok(()) => true,
        Err(Errno::INPROGRESS) => false,
        Err(error) => return Err(error.into()),
    };
    Ok((TcpStream::from_std(std::net::TcpStream::from(socket)), is_open))
}

/// Closes with a reset, which leaves nothing of the connection on either side.
pub(crate) fn reset(stream: TcpStream) {
    // Without it the end is told in the usual way.
    let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
}

/// The loopback address that this user comes from: one address has ports for 28,000 connections.
fn source(target: SocketAddr, origin: Origin) -> Option<SocketAddr> {
    let is_loopback = matches!(target.ip(), IpAddr::V4(address) if address.is_loopback());
    if !is_loopback || origin.source_addresses <= 1 {
        return None;
    }
    // 254 of each of 256 times 256 networks, without .0 and .255.
    let number = origin.user % origin.source_addresses.min(254 * 65_536);
    let [_, _, high, low] = (number / 254).to_be_bytes();
    let last = u8::try_from(number % 254).unwrap_or_default() + 1;
    Some(SocketAddr::new(Ipv4Addr::new(127, high, low, last).into(), 0))
}

/// Why a connection could not be made or broke, in as few words as a table has room for.
pub(crate) fn in_short(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::ConnectionReset => "reset".to_owned(),
        ErrorKind::BrokenPipe => "broken pipe".to_owned(),
        ErrorKind::TimedOut => "timed out".to_owned(),
        ErrorKind::UnexpectedEof => "without a word".to_owned(),
        ErrorKind::AddrNotAvailable => "no free port".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_come_from_the_loopback_addresses_in_turn() {
        let target = "127.0.0.1:80".parse().unwrap();
        let from = |user, source_addresses| {
            let origin = Origin { user, source_addresses, is_slow: false };
            source(target, origin).map(|it| it.ip().to_string())
        };
        assert_eq!(from(0, 16).as_deref(), Some("127.0.0.1"));
        assert_eq!(from(17, 16).as_deref(), Some("127.0.0.2"));
        assert_eq!(from(254, 1_000).as_deref(), Some("127.0.1.1"));
        assert_eq!(from(3, 1), None);
    }

    #[test]
    fn a_server_elsewhere_is_met_from_where_the_kernel_says() {
        let origin = Origin { user: 3, source_addresses: 16, is_slow: false };
        assert_eq!(source("192.0.2.1:80".parse().unwrap(), origin), None);
        assert_eq!(source("[::1]:80".parse().unwrap(), origin), None);
    }
}
