//! Outgoing frames: whole, unmasked, header included, encoded once and shared by all who get them.
//!
//! Hot and pure. A frame is one allocation: room for the longest header, then the payload, written
//! straight behind it; `finish` sets the header against the payload and freezes what there is.

use std::sync::OnceLock;

use bytes::{Buf, BufMut, Bytes, BytesMut};
pub use tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode;
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data},
};

use super::deflate::Agreed;
use crate::limits::DEFLATE_BYTES_MIN;

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
    pub fn finish(self, opcode: OpCode) -> Bytes {
        self.finish_with(FrameHeader { opcode, ..FrameHeader::default() })
    }

    fn finish_with(mut self, header: FrameHeader) -> Bytes {
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

/// A whole frame around a payload that is encoded and compressed already.
#[must_use]
pub fn encode_deflated(opcode: OpCode, payload: &[u8]) -> Bytes {
    let mut frame = FrameBuilder::with_capacity(payload.len());
    frame.payload().put_slice(payload);
    frame.finish_with(FrameHeader { opcode, rsv1: true, ..FrameHeader::default() })
}

/// The opcode and payload of a whole frame of ours.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn parts(frame: &[u8]) -> (OpCode, &[u8]) {
    let header_bytes = match frame[1] {
        126 => 4,
        127 => HEADER_BYTES_MAX,
        _ => 2,
    };
    (OpCode::from(frame[0] & 0x0f), &frame[header_bytes..])
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
/// It is compressed when the first connection wants that, once for all of them, whichever thread
/// they are on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedFrame {
    plain: Bytes,
    /// The same, compressed. Empty as long as nobody has wanted it; `None` if it did not get smaller.
    deflated: OnceLock<Option<Bytes>>,
}

impl SharedFrame {
    /// Wraps a frame of [`FrameBuilder::finish`] or [`encode`].
    #[must_use]
    pub const fn new(plain: Bytes) -> Self {
        Self { plain, deflated: OnceLock::new() }
    }

    /// The plain form.
    #[must_use]
    pub const fn plain(&self) -> &Bytes {
        &self.plain
    }

    /// Whether a connection that agreed on this gets the compressed form, if that is smaller.
    #[must_use]
    pub fn may_be_deflated(&self, deflate: Option<Agreed>) -> bool {
        let Some(agreed) = deflate else { return false };
        let payload_bytes = parts(&self.plain).1.len();
        payload_bytes >= DEFLATE_BYTES_MIN && agreed.takes(payload_bytes)
    }

    /// The frame for one connection. Shares the bytes. `twin` makes the compressed form of the whole
    /// frame, if there is a smaller one; see [`Compressor::twin`].
    ///
    /// [`Compressor::twin`]: super::deflate::compress::Compressor::twin
    #[must_use]
    pub fn pick(
        &self,
        deflate: Option<Agreed>,
        twin: impl FnOnce(&[u8]) -> Option<Bytes>,
    ) -> Picked {
        let wanted = self.may_be_deflated(deflate);
        let deflated = wanted.then(|| self.deflated.get_or_init(|| twin(&self.plain)).as_ref());
        let frame = deflated.flatten().unwrap_or(&self.plain).clone();
        Picked { saved_bytes: self.plain.len() - frame.len(), frame }
    }
}

/// A frame for one connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Picked {
    /// Its bytes.
    pub frame: Bytes,
    /// How many more the plain form would have. Zero unless it is compressed.
    pub saved_bytes: usize,
}

impl Picked {
    /// A frame that nobody tried to compress.
    #[must_use]
    pub const fn plain(frame: Bytes) -> Self {
        Self { frame, saved_bytes: 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use bytes::{BufMut, Bytes};
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::protocol::frame::{FrameHeader, coding::Control};

    use super::{
        Agreed, BINARY, DEFLATE_BYTES_MIN, FrameBuilder, OpCode, Picked, SharedFrame, TEXT, close,
        encode, encode_deflated, parts, ping, pong,
    };

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
            let picked = SharedFrame::new(frame.clone()).pick(None, |_| unreachable!());
            assert_eq!(picked.frame.as_ptr(), frame.as_ptr());
        }
    }

    #[test]
    fn a_frame_of_ours_is_taken_apart_again() {
        for length in [0, 125, 126, 65_535, 65_536] {
            let payload = vec![7; length];
            assert_eq!(parts(&encode(TEXT, &payload)), (TEXT, &payload[..]));
            let deflated = encode_deflated(BINARY, &payload);
            assert_eq!(parts(&deflated), (BINARY, &payload[..]));
            assert_eq!(deflated[0], 0x80 | 0x40 | 2, "final, RSV1, binary");
        }
    }

    #[test]
    fn a_shared_frame_is_compressed_once_and_only_when_it_is_wanted() {
        let plain = encode(TEXT, &[b'x'; 1_000]);
        let shared = SharedFrame::new(plain.clone());
        let unasked = shared.pick(None, |_| panic!("nobody wants it"));
        assert_eq!(unasked, Picked::plain(plain.clone()));
        let mut compressions = 0;
        let mut pick = || {
            shared.pick(Some(Agreed::WHOLE_WINDOW), |of| {
                assert_eq!(of, plain);
                compressions += 1;
                Some(Bytes::from_static(b"small"))
            })
        };
        let (first, second) = (pick(), pick());
        assert_eq!(first.frame.as_ptr(), second.frame.as_ptr());
        assert_eq!((&first.frame[..], first.saved_bytes), (&b"small"[..], plain.len() - 5));
        assert_eq!((compressions, &first), (1, &second));
        assert_eq!(shared.pick(None, |_| unreachable!()).frame, plain);
    }

    #[test]
    fn a_frame_that_does_not_get_smaller_is_tried_once_and_sent_plain() {
        let plain = encode(TEXT, &[b'x'; 1_000]);
        let shared = SharedFrame::new(plain.clone());
        let expected = Picked::plain(plain);
        assert_eq!(shared.pick(Some(Agreed::WHOLE_WINDOW), |_| None), expected);
        assert_eq!(shared.pick(Some(Agreed::WHOLE_WINDOW), |_| panic!("again")), expected);
    }

    #[test]
    fn a_short_frame_is_never_compressed() {
        let wanted = Some(Agreed::WHOLE_WINDOW);
        let frame = |bytes| SharedFrame::new(encode(TEXT, &vec![b'x'; bytes]));
        assert!(!frame(DEFLATE_BYTES_MIN - 1).may_be_deflated(wanted));
        assert!(frame(DEFLATE_BYTES_MIN).may_be_deflated(wanted));
        assert!(!frame(DEFLATE_BYTES_MIN).may_be_deflated(None));
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
