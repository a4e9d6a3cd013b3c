//! The memory of one lane: block after block, each from the one before and one that is farther back.
//!
//! Follows RFC 9106, section 3.4 to 3.6, as the reference implementation does with AVX2: the eight
//! words-times-sixteen of a block are 32 vectors of four words, rows are mixed two at a time and
//! columns four at a time, so that no word is ever gathered. Beyond that it reads ahead: which block
//! comes next is known after a quarter of the columns, and reading one word of each of its cache
//! lines there lets it arrive while the other three quarters are mixed.

use std::fmt;

use argon2::Block;
use fearless_simd::{Level, Simd, dispatch, prelude::*, u64x4};

/// Words in a block.
const WORDS: usize = Block::SIZE / 8;
/// Vectors in a block.
const VECTORS: usize = WORDS / 4;
/// Words in a cache line.
const LINE_WORDS: usize = 8;
/// Parts into which the passes divide the lane.
const SLICES: usize = 4;
/// The number of argon2id in what its addresses are made from.
const ARGON2ID: u64 = 2;

/// Code for one kind of CPU, on a CPU of this kind.
#[derive(Clone, Copy, Debug)]
pub struct Kernel(Level);

impl Kernel {
    /// The fastest that this CPU can run; none without AVX2.
    #[must_use]
    pub fn best() -> Option<Self> {
        Self::available().into_iter().next()
    }

    /// All that this CPU can run, the fastest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let level = Level::new();
        #[cfg(target_arch = "x86_64")]
        return [level.as_avx512().map(Level::Avx512), level.as_avx2().map(Level::Avx2)]
            .into_iter()
            .flatten()
            .map(Self)
            .collect();
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = level;
            Vec::new()
        }
    }

    /// Fills the lane, whose first two blocks are there.
    pub(crate) fn fill(self, lane: &mut [Block], passes: u32) {
        dispatch!(self.0, simd => fill(simd, lane, passes));
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(target_arch = "x86_64")]
        if self.0.as_avx512().is_some() {
            return f.write_str("AVX-512");
        }
        f.write_str("AVX2")
    }
}

/// Where in the lane the filling is.
#[derive(Clone, Copy)]
struct Place {
    lane_blocks: usize,
    segment_blocks: usize,
    pass: usize,
    slice: usize,
}

impl Place {
    /// Which block the block at this index of the segment is made from, beside the one before it.
    /// Never that one, nor itself.
    #[inline(always)]
    fn reference(self, index: usize, random: u64) -> usize {
        let behind = if self.pass == 0 {
            self.slice * self.segment_blocks
        } else {
            self.lane_blocks - self.segment_blocks
        };
        let area = behind + index - 1;
        let skewed = (random & 0xffff_ffff).pow(2) >> 32;
        let back = (area as u64 * skewed) >> 32;
        let first = if self.pass == 0 || self.slice == SLICES - 1 {
            0
        } else {
            (self.slice + 1) * self.segment_blocks
        };
        let block = first + area - 1 - back as usize;
        if block >= self.lane_blocks { block - self.lane_blocks } else { block }
    }
}

#[inline(always)]
fn fill<S: Simd>(simd: S, lane: &mut [Block], passes: u32) {
    let (lane_blocks, segment_blocks) = (lane.len(), lane.len() / SLICES);
    for pass in 0..passes as usize {
        for slice in 0..SLICES {
            let place = Place { lane_blocks, segment_blocks, pass, slice };
            fill_segment(simd, lane, place, passes);
        }
    }
}

#[inline(always)]
fn fill_segment<S: Simd>(simd: S, lane: &mut [Block], place: Place, passes: u32) {
    // The first half of the first pass reads where no password decides.
    let mut addresses =
        (place.pass == 0 && place.slice < SLICES / 2).then(|| Addresses::new(simd, place, passes));
    let mut random = |index: usize, last: &Block| match &mut addresses {
        Some(addresses) => addresses.at(simd, index),
        None => last.as_ref()[0],
    };
    let begin = place.slice * place.segment_blocks;
    let first = if place.pass == 0 && place.slice == 0 { 2 } else { 0 };
    let mut last = (begin + first + place.lane_blocks - 1) % place.lane_blocks;
    let mut reference = place.reference(first, random(first, &lane[last]));
    let mut read_ahead = 0;
    // Out here, so that nothing is copied into them.
    let (mut mixed, mut kept) = (zeros(simd), zeros(simd));
    for index in first..place.segment_blocks {
        let current = begin + index;
        let [before, other, block] = lane
            .get_disjoint_mut([last, reference, current])
            .expect("a block is made from two others of the lane");
        let (before, other, block) = (words(before), words(other), words_mut(block));
        if place.pass == 0 {
            mix_rows::<S, false>(simd, before, other, block, &mut mixed, &mut kept);
        } else {
            mix_rows::<S, true>(simd, before, other, block, &mut mixed, &mut kept);
        }
        mix_columns(0, &mixed, &kept, block);
        // The first word is final.
        if index + 1 < place.segment_blocks {
            reference = place.reference(index + 1, random(index + 1, &lane[current]));
            for line in lane[reference].as_ref().chunks_exact(LINE_WORDS) {
                read_ahead ^= line[0];
            }
        }
        let block = words_mut(&mut lane[current]);
        for column in 1..4 {
            mix_columns(column, &mixed, &kept, block);
        }
        last = current;
    }
    // What was read ahead is for the cache only; the compiler may not find that out.
    std::hint::black_box(read_ahead);
}

/// The addresses of a segment that do not depend on the password.
struct Addresses {
    /// What they are made from: the place, and a counter.
    input: [u64; WORDS],
    /// The ones at hand, of which each index takes its own.
    block: [u64; WORDS],
}

impl Addresses {
    #[inline(always)]
    fn new<S: Simd>(simd: S, place: Place, passes: u32) -> Self {
        let mut input = [0; WORDS];
        let (pass, slice) = (place.pass as u64, place.slice as u64);
        let blocks = place.lane_blocks as u64;
        input[..6].copy_from_slice(&[pass, 0, slice, blocks, u64::from(passes), ARGON2ID]);
        let mut new = Self { input, block: [0; WORDS] };
        if place.slice == 0 {
            // The first two indexes of the lane need none, and theirs are skipped.
            new.next(simd);
        }
        new
    }

    #[inline(always)]
    fn at<S: Simd>(&mut self, simd: S, index: usize) -> u64 {
        if index.is_multiple_of(WORDS) {
            self.next(simd);
        }
        self.block[index % WORDS]
    }

    /// Not inlined: once for 128 blocks, and the filling is large enough.
    #[inline(never)]
    fn next<S: Simd>(&mut self, simd: S) {
        let zero = [0; WORDS];
        self.input[6] += 1;
        let mut once = [0; WORDS];
        simd.vectorize(
            #[inline(always)]
            || {
                compress(simd, &zero, &self.input, &mut once);
                compress(simd, &zero, &once, &mut self.block);
            },
        );
    }
}

/// The compression of two blocks into a third.
#[inline(always)]
fn compress<S: Simd>(simd: S, a: &[u64; WORDS], b: &[u64; WORDS], out: &mut [u64; WORDS]) {
    let (mut mixed, mut kept) = (zeros(simd), zeros(simd));
    mix_rows::<S, false>(simd, a, b, out, &mut mixed, &mut kept);
    for column in 0..4 {
        mix_columns(column, &mixed, &kept, out);
    }
}

/// One block as vectors.
type Vectors<S> = [u64x4<S>; VECTORS];

#[inline(always)]
fn zeros<S: Simd>(simd: S) -> Vectors<S> {
    [u64x4::splat(simd, 0); VECTORS]
}

/// The sum of two blocks with `mixed` rows, and what is `kept` to be added to it when its columns
/// are mixed, too: the sum itself and, if the block is made `AGAIN`, what it has from the pass
/// before.
#[inline(always)]
fn mix_rows<S: Simd, const AGAIN: bool>(
    simd: S,
    a: &[u64; WORDS],
    b: &[u64; WORDS],
    block: &[u64; WORDS],
    mixed: &mut Vectors<S>,
    kept: &mut Vectors<S>,
) {
    for rows in 0..4 {
        let mut vectors: [u64x4<S>; 8] = std::array::from_fn(
            #[inline(always)]
            |n| load(simd, a, rows * 8 + n) ^ load(simd, b, rows * 8 + n),
        );
        for n in 0..8 {
            kept[rows * 8 + n] =
                if AGAIN { vectors[n] ^ load(simd, block, rows * 8 + n) } else { vectors[n] };
        }
        mix_two_rows(&mut vectors);
        mixed[rows * 8..rows * 8 + 8].copy_from_slice(&vectors);
    }
}

/// Mixes four neighbouring columns of words, adds what was kept, and writes them.
#[inline(always)]
fn mix_columns<S: Simd>(
    columns: usize,
    mixed: &Vectors<S>,
    kept: &Vectors<S>,
    block: &mut [u64; WORDS],
) {
    let mut vectors: [u64x4<S>; 8] = std::array::from_fn(
        #[inline(always)]
        |n| mixed[n * 4 + columns],
    );
    mix_four_columns(&mut vectors);
    for n in 0..8 {
        let at = (n * 4 + columns) * 4;
        (vectors[n] ^ kept[n * 4 + columns]).store_slice(&mut block[at..at + 4]);
    }
}

/// The permutation of two rows of sixteen words, side by side so that neither waits for itself.
#[inline(always)]
fn mix_two_rows<S: Simd>([a0, b0, c0, d0, a1, b1, c1, d1]: &mut [u64x4<S>; 8]) {
    mix(a0, b0, c0, d0);
    mix(a1, b1, c1, d1);
    // The diagonals become columns.
    (*b0, *c0, *d0) = (b0.slide::<1>(*b0), c0.slide::<2>(*c0), d0.slide::<3>(*d0));
    (*b1, *c1, *d1) = (b1.slide::<1>(*b1), c1.slide::<2>(*c1), d1.slide::<3>(*d1));
    mix(a0, b0, c0, d0);
    mix(a1, b1, c1, d1);
    // And back.
    (*b0, *c0, *d0) = (b0.slide::<3>(*b0), c0.slide::<2>(*c0), d0.slide::<1>(*d0));
    (*b1, *c1, *d1) = (b1.slide::<3>(*b1), c1.slide::<2>(*c1), d1.slide::<1>(*d1));
}

/// The permutation of two columns of sixteen words. A vector has two words of each, and each of the
/// four rows that [`mix`] takes is a pair of vectors.
#[inline(always)]
fn mix_four_columns<S: Simd>([a0, a1, b0, b1, c0, c1, d0, d1]: &mut [u64x4<S>; 8]) {
    mix(a0, b0, c0, d0);
    mix(a1, b1, c1, d1);
    (*b0, *b1) = (next_of(*b0, *b1), next_of(*b1, *b0));
    (*d0, *d1) = (next_of(*d1, *d0), next_of(*d0, *d1));
    mix(a0, b0, c1, d0);
    mix(a1, b1, c0, d1);
    (*b0, *b1) = (next_of(*b1, *b0), next_of(*b0, *b1));
    (*d0, *d1) = (next_of(*d0, *d1), next_of(*d1, *d0));
}

/// The second word of each pair of `a`, and the first one of `b`'s.
#[inline(always)]
fn next_of<S: Simd>(a: u64x4<S>, b: u64x4<S>) -> u64x4<S> {
    a.slide_within_blocks::<1>(b)
}

/// BLAKE2b's mixing with a multiplication in every step, of four times four words.
#[inline(always)]
fn mix<S: Simd>(a: &mut u64x4<S>, b: &mut u64x4<S>, c: &mut u64x4<S>, d: &mut u64x4<S>) {
    *a = multiply_add(*a, *b);
    *d = rotate_right::<S, 32>(*d ^ *a);
    *c = multiply_add(*c, *d);
    *b = rotate_right::<S, 24>(*b ^ *c);
    *a = multiply_add(*a, *b);
    *d = rotate_right::<S, 16>(*d ^ *a);
    *c = multiply_add(*c, *d);
    *b = rotate_right::<S, 63>(*b ^ *c);
}

/// `a + b + 2ab` of the words, where the product is that of their low halves: one instruction, which
/// the compiler finds behind the masks.
#[inline(always)]
fn multiply_add<S: Simd>(a: u64x4<S>, b: u64x4<S>) -> u64x4<S> {
    let low = u64x4::splat(a.simd, 0xffff_ffff);
    let product = (a & low) * (b & low);
    a + b + product + product
}

#[inline(always)]
fn rotate_right<S: Simd, const BITS: u32>(a: u64x4<S>) -> u64x4<S> {
    // A sum is cheaper than a shift, where it does.
    if BITS == 63 { (a >> 63) ^ (a + a) } else { (a >> BITS) ^ (a << (64 - BITS)) }
}

#[inline(always)]
fn load<S: Simd>(simd: S, words: &[u64; WORDS], vector: usize) -> u64x4<S> {
    u64x4::from_slice(simd, &words[vector * 4..vector * 4 + 4])
}

#[inline(always)]
fn words(block: &Block) -> &[u64; WORDS] {
    block.as_ref().try_into().expect("a block has 128 words")
}

#[inline(always)]
fn words_mut(block: &mut Block) -> &mut [u64; WORDS] {
    block.as_mut().try_into().expect("a block has 128 words")
}
