//! The rate of argon2id by each implementation at hand, at the default cost, on one thread.
//!
//! `cargo bench --bench argon2`. With `ARGON2_REFERENCE` naming a checkout of
//! `github.com/P-H-C/phc-winner-argon2`, or the copy of it in the crate `argon2-kdf`, that C code is
//! compiled by `cc -O3` for this CPU and for two older ones, and takes part: as processes of its own,
//! since calling it would need `unsafe`.
//!
//! The implementations take turns (A B C A B C …), so that a neighbour on the machine slows all of
//! them alike. What counts is the CPU time of the thread, the median of the rounds, and of that the
//! rate beside RustCrypto's. Every hash is compared with RustCrypto's: the rate of a wrong answer is
//! no rate.

#![allow(clippy::unwrap_used, reason = "a bench that cannot measure has failed")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use hubbub_argon2::{Kernel, OUTPUT_BYTES};
use rustix::time::{ClockId, clock_gettime};

/// OWASP's minimum, and our default.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const PASSWORD: &[u8] = b"correct horse";
const SALT: [u8; 16] = [7; 16];
/// Odd, so that there is a median.
const ROUNDS: usize = 41;
/// Rounds in which caches and clocks find their pace.
const WARM_UP: usize = 2;

type Output = [u8; OUTPUT_BYTES];

struct Contender {
    name: String,
    /// Hashes once: the CPU time in nanoseconds, and the hash.
    hash: Box<dyn FnMut() -> (u64, Output)>,
    times_ns: Vec<u64>,
}

impl Contender {
    fn new(name: impl Into<String>, hash: impl FnMut() -> (u64, Output) + 'static) -> Self {
        Self { name: name.into(), hash: Box::new(hash), times_ns: Vec::new() }
    }

    /// One that hashes on this thread, into memory that it keeps.
    fn here(name: impl Into<String>, hash: impl Fn(&mut [Block], &mut Output) + 'static) -> Self {
        let mut memory = vec![Block::new(); params().block_count()];
        Self::new(name, move || {
            let (mut output, begun_ns) = ([0; OUTPUT_BYTES], cpu_ns());
            hash(&mut memory, &mut output);
            (cpu_ns() - begun_ns, output)
        })
    }

    fn median_ns(&mut self) -> u64 {
        self.times_ns.sort_unstable();
        self.times_ns[self.times_ns.len() / 2]
    }
}

fn main() {
    let mut contenders = vec![
        Contender::here("RustCrypto, memory kept", |memory, output| {
            rustcrypto().hash_password_into_with_memory(PASSWORD, &SALT, output, memory).unwrap();
        }),
        Contender::new("RustCrypto, memory allocated", || {
            let (mut output, begun_ns) = ([0; OUTPUT_BYTES], cpu_ns());
            rustcrypto().hash_password_into(PASSWORD, &SALT, &mut output).unwrap();
            (cpu_ns() - begun_ns, output)
        }),
    ];
    for kernel in Kernel::available() {
        contenders.push(Contender::here(format!("ours, {kernel}"), move |memory, output| {
            hubbub_argon2::hash_by(kernel, PASSWORD, &SALT, &params(), memory, output);
        }));
    }
    let scratch = tempfile::tempdir().unwrap();
    if let Some(source) = std::env::var_os("ARGON2_REFERENCE") {
        for cpu in ["x86-64", "x86-64-v3", "native"] {
            contenders.push(reference(Path::new(&source), scratch.path(), cpu));
        }
    } else {
        println!("without the reference implementation: ARGON2_REFERENCE is not set");
    }

    let (_, expected) = (contenders[0].hash)();
    for round in 0..WARM_UP + ROUNDS {
        for contender in &mut contenders {
            let (time_ns, output) = (contender.hash)();
            assert_eq!(output, expected, "{} hashes something else", contender.name);
            if round >= WARM_UP {
                contender.times_ns.push(time_ns);
            }
        }
    }

    let medians: Vec<u64> = contenders.iter_mut().map(Contender::median_ns).collect();
    let best = *medians.iter().min().unwrap();
    println!("{MEMORY_KIB} KiB, {PASSES} passes, 1 lane, 1 thread; median of {ROUNDS} rounds\n");
    println!("{:30} {:>14} {:>12} {:>12}", "", "to RustCrypto", "to the best", "CPU ms");
    for (contender, &median) in contenders.iter().zip(&medians) {
        let ratio = |other: u64| other as f64 / median as f64;
        let (to_first, to_best) = (ratio(medians[0]), ratio(best));
        let ms = median as f64 / 1e6;
        println!("{:30} {to_first:>13.3}× {to_best:>11.3}× {ms:>12.2}", contender.name);
    }
}

fn params() -> Params {
    Params::new(MEMORY_KIB, PASSES, 1, Some(OUTPUT_BYTES)).unwrap()
}

fn rustcrypto() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params())
}

fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap()
}

/// The reference implementation, compiled for a CPU.
fn reference(source: &Path, scratch: &Path, cpu: &str) -> Contender {
    let program = scratch.join(cpu);
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/argon2_reference.c");
    let compiled = Command::new("cc")
        .args(["-O3", "-w", "-std=gnu11", &format!("-march={cpu}"), "-I"])
        .arg(source)
        .arg("-I")
        .arg(source.join("include"))
        .arg("-I")
        .arg(source.join("src"))
        .arg(driver)
        .arg("-o")
        .arg(&program)
        .status();
    assert!(compiled.unwrap().success(), "{source:?} is not the reference implementation");
    let child = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut process = Process::new(child.unwrap());
    Contender::new(format!("C, opt.c, -march={cpu}"), move || process.hash())
}

/// A process that hashes when it gets a line.
struct Process {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Process {
    fn new(mut child: Child) -> Self {
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, answers }
    }

    fn hash(&mut self) -> (u64, Output) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let (time_ns, hex) = line.trim_end().split_once(' ').unwrap();
        let byte = |n: usize| u8::from_str_radix(&hex[n * 2..n * 2 + 2], 16).unwrap();
        (time_ns.parse().unwrap(), std::array::from_fn(byte))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
