//! Outgoing frames: whole, unmasked, header included, encoded once and shared by all who get them.
//!
//! Hot and pure. A frame is one allocation: room for the longest header, then the payload, written
//! straight behind it; `finish` sets the header against the payload and freezes what there is.

use bytes::{Buf, BufMut, Bytes, BytesMut};
pub use tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode;
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data},
};

/// The opcode of a text message.
pub const TEXT: OpCode = OpCode::Data(Data::Text);
/// The opcode of a binary message.
pub const BINARY: OpCode = OpCode::Data(Data::Binary);

/// Bytes of a control frame's payload, by RFC 6455.
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;
/// Bytes of the longest header without a mask: two and a 64-bit length.
const HEADER_BYTES_MAX: usize = 10;

/// A frame whose payload is being written.
#[derive(Debug)]
pub struct FrameBuilder {
    /// [`HEADER_BYTES_MAX`] of room, then the payload.
    bytes: BytesMut,
}

impl FrameBuilder {
    /// A frame without payload yet. It grows as needed; a good guess saves the copies.
    #[must_use]
    pub fn with_capacity(payload_bytes: usize) -> Self {
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES_MAX + payload_bytes);
        bytes.put_bytes(0, HEADER_BYTES_MAX);
        Self { bytes }
    }

    /// Where the payload is written. What is written can be added to, not taken back.
    pub fn payload(&mut self) -> impl BufMut + '_ {
        &mut self.bytes
    }

    /// Bytes of payload so far.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.bytes.len() - HEADER_BYTES_MAX
    }

    /// Puts the header in front. Copies nothing.
    #[must_use]
    pub fn finish(mut self, opcode: OpCode) -> Bytes {
        let header = FrameHeader { opcode, ..FrameHeader::default() };
        let payload_bytes = self.payload_bytes() as u64;
        let unused = HEADER_BYTES_MAX - header.len(payload_bytes);
        let mut room = &mut self.bytes[unused..HEADER_BYTES_MAX];
        header.format(payload_bytes, &mut room).expect("the room is as long as the header");
        self.bytes.advance(unused);
        self.bytes.freeze()
    }
}

/// A whole frame around a payload that is encoded already.
#[must_use]
pub fn encode(opcode: OpCode, payload: &[u8]) -> Bytes {
    let mut frame = FrameBuilder::with_capacity(payload.len());
    frame.payload().put_slice(payload);
    frame.finish(opcode)
}

/// A close frame. Of the reason goes out what fits, to the end of a character.
#[must_use]
pub fn close(code: u16, reason: &str) -> Bytes {
    let code = code.to_be_bytes();
    let reason = &reason[..reason.floor_char_boundary(CONTROL_PAYLOAD_BYTES_MAX - code.len())];
    let mut frame = FrameBuilder::with_capacity(code.len() + reason.len());
    frame.payload().put_slice(&code);
    frame.payload().put_slice(reason.as_bytes());
    frame.finish(OpCode::Control(Control::Close))
}

/// A ping. Its payload comes back in the pong.
///
/// # Panics
/// When the payload is longer than [`CONTROL_PAYLOAD_BYTES_MAX`].
#[must_use]
pub fn ping(payload: &[u8]) -> Bytes {
    control(Control::Ping, payload)
}

/// The answer to a ping with this payload.
///
/// # Panics
/// When the payload is longer than [`CONTROL_PAYLOAD_BYTES_MAX`], which no received ping's is.
#[must_use]
pub fn pong(payload: &[u8]) -> Bytes {
    control(Control::Pong, payload)
}

fn control(opcode: Control, payload: &[u8]) -> Bytes {
    assert!(payload.len() <= CONTROL_PAYLOAD_BYTES_MAX, "a control frame is short");
    encode(OpCode::Control(opcode), payload)
}

/// One message for many connections, in every form in which one of them may want it.
///
/// Today there is one form. permessage-deflate adds `deflated: Option<Bytes>`, compressed once per
/// message and kept only when it is smaller, and [`pick`](Self::pick) will be told what the
/// connection negotiated; fan-out stays as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedFrame {
    plain: Bytes,
}

impl SharedFrame {
    /// Wraps a frame of [`FrameBuilder::finish`] or [`encode`].
    #[must_use]
    pub const fn new(plain: Bytes) -> Self {
        Self { plain }
    }

    /// The frame for one connection. Shares the bytes.
    #[must_use]
    pub fn pick(&self) -> Bytes {
        self.plain.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use bytes::BufMut;
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::protocol::frame::{FrameHeader, coding::Control};

    use super::{BINARY, FrameBuilder, OpCode, SharedFrame, TEXT, close, encode, ping, pong};

    /// The opcode and payload that tungstenite reads from a frame; fails on anything left over.
    fn parse(frame: &[u8]) -> (OpCode, &[u8]) {
        let mut cursor = Cursor::new(frame);
        let (header, length) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
        let payload = &frame[usize::try_from(cursor.position()).unwrap()..];
        assert_eq!(header, FrameHeader { opcode: header.opcode, ..FrameHeader::default() });
        assert_eq!(length, payload.len() as u64);
        assert_eq!(header.len(length) + payload.len(), frame.len(), "the length is minimal");
        (header.opcode, payload)
    }

    #[test]
    fn every_length_form_is_read_back_by_tungstenite() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 65_537, 200_000] {
            for opcode in [TEXT, BINARY] {
                let payload = vec![7; length];
                assert_eq!(parse(&encode(opcode, &payload)), (opcode, &payload[..]));
            }
        }
    }

    proptest! {
        #[test]
        fn every_payload_is_read_back_by_tungstenite(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
            guess in 0..2_000_usize,
        ) {
            let mut frame = FrameBuilder::with_capacity(guess);
            for piece in &pieces {
                frame.payload().put_slice(piece);
            }
            prop_assert_eq!(frame.payload_bytes(), pieces.concat().len());
            let frame = frame.finish(BINARY);
            prop_assert_eq!(parse(&frame), (BINARY, &pieces.concat()[..]));
        }

        #[test]
        fn a_close_frame_is_never_too_long_and_its_reason_never_cut_within_a_character(
            code in 1000..5000_u16,
            reason in "\\PC{0,200}",
        ) {
            let frame = close(code, &reason);
            let (opcode, payload) = parse(&frame);
            prop_assert_eq!(opcode, OpCode::Control(Control::Close));
            prop_assert!(payload.len() <= 125);
            prop_assert_eq!(&payload[..2], &code.to_be_bytes()[..]);
            let sent = str::from_utf8(&payload[2..]).unwrap();
            prop_assert!(reason.starts_with(sent));
            prop_assert!(sent.len() == reason.len() || sent.len() > 123 - 4);
        }
    }

    #[test]
    fn finishing_a_frame_copies_nothing() {
        for length in [10, 1_000, 100_000] {
            let mut frame = FrameBuilder::with_capacity(length);
            frame.payload().put_bytes(1, length);
            let last = frame.bytes.last().map(std::ptr::from_ref);
            let frame = frame.finish(BINARY);
            assert_eq!(frame.last().map(std::ptr::from_ref), last, "{length}");
            assert_eq!(SharedFrame::new(frame.clone()).pick().as_ptr(), frame.as_ptr());
        }
    }

    #[test]
    fn pings_and_pongs_carry_their_payload() {
        assert_eq!(&ping(b"25")[..], b"\x89\x0225");
        assert_eq!(&pong(b"")[..], b"\x8a\x00");
        assert_eq!(parse(&pong(&[1; 125])).1, [1; 125]);
    }

    #[test]
    #[should_panic(expected = "a control frame is short")]
    fn a_long_pong_is_our_bug() {
        let _ = pong(&[0; 126]);
    }
}
