//! The compressor of a shard's thread, and the bill for it.
//!
//! Apart from [`fanout`](super::fanout), which is pure, because it reads the clock.

use std::{cell::RefCell, sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    metrics::{Compressed, Metrics},
    websocket::{deflate::compress::Compressor, frame::Picked},
};

/// Compresses what a shard sends.
#[derive(Debug)]
pub struct Deflater {
    compressor: RefCell<Compressor>,
    metrics: Arc<Metrics>,
}

impl Deflater {
    /// One that has compressed nothing. It takes its memory with the first frame.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { compressor: RefCell::default(), metrics }
    }

    /// The compressed twin of a whole frame, if there is a smaller one.
    pub fn twin(&self, what: Compressed, plain: &[u8]) -> Option<Bytes> {
        let began = Instant::now();
        let twin = self.compressor.borrow_mut().twin(plain);
        self.metrics.compressed(what, began.elapsed());
        twin
    }

    /// Counts a frame that goes to one connection.
    pub fn count(&self, picked: Picked) -> Bytes {
        if picked.saved_bytes > 0 {
            self.metrics.sent_deflated(1, picked.saved_bytes as u64);
        }
        picked.frame
    }
}
