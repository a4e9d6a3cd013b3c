//! argon2id (RFC 9106) with one lane, whose memory is filled by AVX2 or AVX-512 in safe Rust.
//!
//! RustCrypto's `argon2` leaves the vectors to the compiler, which has to gather them from the
//! columns of a block: it hashes at 0.65 times the rate of the reference implementation in C with
//! AVX2. No crate that binds C finds out at run time what the CPU can do, and is fast. So
//! `fill` does what C does with its registers, and reads ahead as well; `cargo bench --bench
//! argon2` compares them.
//!
//! RustCrypto's code stays: as the oracle of the tests, and for what is rare here: more than one
//! lane, outputs of other lengths than 32 bytes, and CPUs without AVX2. Its types are the interface,
//! so that both fill the same memory.
//!
//! This is a package of its own so that it can be optimised in builds that otherwise are not: a hash
//! by unoptimised vectors takes seconds.

use argon2::{Algorithm, Argon2, Block, Error, Params, Version};
use blake2::{Blake2b256, Blake2b512, Digest as _};

mod fill;

pub use fill::Kernel;

/// Bytes of the outputs that the kernels make.
pub const OUTPUT_BYTES: usize = 32;

/// Hashes a password with argon2id, version 0x13, in the given memory, which has at least
/// [`Params::block_count`] blocks. What is in them before makes no difference.
///
/// # Errors
/// As RustCrypto's `argon2` has them: too little memory, or a length that is out of range.
pub fn hash(
    password: &[u8],
    salt: &[u8],
    params: &Params,
    memory: &mut [Block],
    output: &mut [u8],
) -> Result<(), Error> {
    if let Some(kernel) = Kernel::best()
        && let Ok(output) = <&mut [u8; OUTPUT_BYTES]>::try_from(&mut *output)
        && takes(password, salt, params, memory)
    {
        hash_by(kernel, password, salt, params, memory, output);
        return Ok(());
    }
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    argon2.hash_password_into_with_memory(password, salt, output, memory)
}

/// Whether the kernels make this hash. For anything else RustCrypto's code has the hash or the error.
#[must_use]
pub fn takes(password: &[u8], salt: &[u8], params: &Params, memory: &[Block]) -> bool {
    params.p_cost() == 1
        && params.output_len().is_none_or(|length| length == OUTPUT_BYTES)
        && params.keyid().is_empty()
        && params.data().is_empty()
        && memory.len() >= params.block_count()
        && u32::try_from(password.len()).is_ok()
        && (argon2::MIN_SALT_LEN..=argon2::MAX_SALT_LEN).contains(&salt.len())
}

/// Hashes with one kernel: what [`hash`] does, for tests and measurements.
///
/// # Panics
/// When [`takes`] says no.
pub fn hash_by(
    kernel: Kernel,
    password: &[u8],
    salt: &[u8],
    params: &Params,
    memory: &mut [Block],
    output: &mut [u8; OUTPUT_BYTES],
) {
    assert!(takes(password, salt, params, memory), "the kernels do not make this hash");
    let memory = &mut memory[..params.block_count()];
    let seed = seed(password, salt, params);
    for (number, block) in (0_u32..2).zip(memory.iter_mut()) {
        load(block, &long_hash(&[&seed, &number.to_le_bytes(), &0_u32.to_le_bytes()]));
    }
    kernel.fill(memory, params.t_cost());
    let last = memory.last().expect("argon2 has at least eight blocks");
    let mut digest = Blake2b256::new();
    digest.update(length_prefix(OUTPUT_BYTES));
    for word in last.as_ref() {
        digest.update(word.to_le_bytes());
    }
    output.copy_from_slice(&digest.finalize());
}

/// `H0`: everything that goes into the hash, once.
fn seed(password: &[u8], salt: &[u8], params: &Params) -> [u8; 64] {
    let mut digest = Blake2b512::new();
    digest.update(params.p_cost().to_le_bytes());
    digest.update(length_prefix(OUTPUT_BYTES));
    digest.update(params.m_cost().to_le_bytes());
    digest.update(params.t_cost().to_le_bytes());
    digest.update(u32::from(Version::V0x13).to_le_bytes());
    digest.update((Algorithm::Argon2id as u32).to_le_bytes());
    for part in [password, salt, &[], &[]] {
        digest.update(length_prefix(part.len()));
        digest.update(part);
    }
    digest.finalize().into()
}

/// `H'` for a whole block: a chain of 64-byte hashes, of each of which the first half counts, and of
/// the last one all.
fn long_hash(parts: &[&[u8]]) -> [u8; Block::SIZE] {
    let mut digest = Blake2b512::new();
    digest.update(length_prefix(Block::SIZE));
    for part in parts {
        digest.update(part);
    }
    let mut link = digest.finalize();
    let mut whole = [0; Block::SIZE];
    let (halves, end) = whole.split_at_mut(Block::SIZE - 64);
    for half in halves.chunks_exact_mut(32) {
        half.copy_from_slice(&link[..32]);
        link = Blake2b512::digest(link);
    }
    end.copy_from_slice(&link);
    whole
}

fn load(block: &mut Block, bytes: &[u8; Block::SIZE]) {
    let (words, _) = bytes.as_chunks();
    for (word, bytes) in block.as_mut().iter_mut().zip(words) {
        *word = u64::from_le_bytes(*bytes);
    }
}

/// Lengths were checked to fit.
fn length_prefix(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("a length of argon2 has 32 bits").to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn params(memory_kib: u32, passes: u32) -> Params {
        Params::new(memory_kib, passes, 1, Some(OUTPUT_BYTES)).unwrap()
    }

    /// What RustCrypto's code says.
    fn expected(password: &[u8], salt: &[u8], params: &Params) -> [u8; OUTPUT_BYTES] {
        let mut output = [0; OUTPUT_BYTES];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
            .hash_password_into(password, salt, &mut output)
            .unwrap();
        output
    }

    fn by(kernel: Kernel, password: &[u8], salt: &[u8], params: &Params) -> [u8; OUTPUT_BYTES] {
        // Memory as another hash may have left it, and more than is needed.
        let mut memory = vec![Block::new(); params.block_count() + 3];
        for block in &mut memory {
            block.as_mut().fill(0x5555_aaaa_0f0f_3c3c);
        }
        let mut output = [0; OUTPUT_BYTES];
        hash_by(kernel, password, salt, params, &mut memory, &mut output);
        output
    }

    #[test]
    fn this_machine_tests_at_least_one_kernel() {
        // Elsewhere `hash` is RustCrypto's, which has tests of its own.
        if cfg!(target_arch = "x86_64") {
            assert!(!Kernel::available().is_empty(), "a CPU without AVX2 cannot test this package");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_kernel_agrees_with_rustcrypto(
            password in prop::collection::vec(any::<u8>(), 0..200),
            salt in prop::collection::vec(any::<u8>(), 8..40),
            memory_kib in 8_u32..1100,
            passes in 1_u32..5,
        ) {
            let params = params(memory_kib, passes);
            let expected = expected(&password, &salt, &params);
            for kernel in Kernel::available() {
                prop_assert_eq!(by(kernel, &password, &salt, &params), expected, "{:?}", kernel);
            }
        }
    }

    #[test]
    fn the_smallest_memories_and_the_default_cost_agree_with_rustcrypto() {
        for (memory_kib, passes) in (8..24).map(|kib| (kib, 3)).chain([(19 * 1024, 2)]) {
            let params = params(memory_kib, passes);
            let expected = expected(b"correct horse", &[7; 16], &params);
            for kernel in Kernel::available() {
                let made = by(kernel, b"correct horse", &[7; 16], &params);
                assert_eq!(made, expected, "{kernel:?}, {memory_kib} KiB");
            }
        }
    }

    #[test]
    fn a_vector_of_the_reference_implementation() {
        // phc-winner-argon2, src/test.c: argon2id, t = 2, m = 2^16, p = 1, "password", "somesalt".
        const VECTOR: &str = "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7";
        for kernel in Kernel::available() {
            let made = by(kernel, b"password", b"somesalt", &params(65_536, 2));
            let hex: String = made.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, VECTOR, "{kernel:?}");
        }
    }

    #[test]
    fn what_the_kernels_do_not_make_is_made_all_the_same() {
        let lanes = Params::new(64, 2, 4, None).unwrap();
        let mut memory = vec![Block::new(); lanes.block_count()];
        let (mut output, mut expected) = ([0; 24], [0; 24]);
        hash(b"correct horse", &[7; 16], &lanes, &mut memory, &mut output).unwrap();
        Argon2::new(Algorithm::Argon2id, Version::V0x13, lanes)
            .hash_password_into(b"correct horse", &[7; 16], &mut expected)
            .unwrap();
        assert_eq!(output, expected);
    }

    #[test]
    fn short_salts_and_too_little_memory_are_errors() {
        let (params, mut output) = (params(64, 1), [0; OUTPUT_BYTES]);
        let mut memory = vec![Block::new(); 64];
        let short = hash(b"correct horse", &[7; 7], &params, &mut memory, &mut output);
        assert_eq!(short, Err(Error::SaltTooShort));
        let little = hash(b"correct horse", &[7; 16], &params, &mut memory[..63], &mut output);
        assert_eq!(little, Err(Error::MemoryTooLittle));
    }
}
