//! permessage-deflate (RFC 7692) without context takeover. Pure.
//!
//! [`negotiation`] agrees on it, [`compress`] makes the compressed twin of a frame once for all who
//! get it, [`inflate`] takes a client's message apart. No message refers to an earlier one, in
//! neither direction, so no connection holds a state of zlib's: there is one compressor and one
//! inflater per thread, passed in by whoever owns the thread. Kept per connection they would take
//! about 420 KiB each.

pub mod compress;
pub mod inflate;
pub mod negotiation;

/// What every compressed message ends with before it is sent, and what is put back when it is read:
/// the end of an empty stored block, to which a flush comes.
const FLUSH_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// What one connection agreed on. That no side keeps context is always part of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Agreed {
    /// The client's window for our messages: two to the power of this, in bytes.
    server_window_bits: u8,
}

impl Agreed {
    /// The largest window, which is what most clients have.
    pub const WHOLE_WINDOW: Self = Self { server_window_bits: negotiation::WINDOW_BITS_MAX };

    /// Whether a message of this many bytes may be sent compressed. All connections share frames that
    /// were compressed with the largest window; in a message no longer than the client's own window no
    /// reference can lead out of it.
    #[must_use]
    pub const fn takes(self, payload_bytes: usize) -> bool {
        payload_bytes <= 1 << self.server_window_bits
            || self.server_window_bits == negotiation::WINDOW_BITS_MAX
    }
}

#[cfg(test)]
mod tests;
