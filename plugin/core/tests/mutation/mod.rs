//! Inputs for parsers: a corpus from files, and mutations of it by a seed, each reproducible by its number.

use std::{
    env, fs,
    path::Path,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

/// How long so many inputs of one target may take together: a parser whose time grows beyond its input does not end within it.
const DEADLINE: Duration = Duration::from_mins(2);
/// Mutations of one target, unless `AZURE_VNET_FUZZ_ROUNDS` says otherwise.
const ROUNDS: u64 = 2000;
/// No mutation makes an input longer but by doubling what is there.
const LONGEST: usize = 1 << 17;
/// What parsers look for.
const WORDS: [&[u8]; 24] = [
    b"\n",
    b" ",
    b"\0",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b";",
    b"=",
    b"<",
    b">",
    b"&amp;",
    b"/",
    b"-1",
    b"0",
    b"18446744073709551616",
    b"255.255.255.255",
    b"0.0.0.0/0",
    b"\xff\xfe",
    b"null",
];

/// Gives every file of `corpus`, then mutations of them, to `target`. A panic names the input.
pub fn replay(corpus: &Path, target: fn(&[u8])) {
    let mut files: Vec<_> =
        fs::read_dir(corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display())).map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", corpus.display());
    let inputs: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let number = |name: &str, default| env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seed, rounds) = (number("AZURE_VNET_FUZZ_SEED", 1), number("AZURE_VNET_FUZZ_ROUNDS", ROUNDS));
    let (done, end) = channel();
    let work = thread::spawn(move || {
        for input in &inputs {
            target(input);
        }
        for round in 0..rounds {
            let mut dice = Dice::new(seed.wrapping_mul(0x1_0000_0001).wrapping_add(round));
            let mut input = dice.pick(&inputs).clone();
            for _ in 0..=dice.below(4) {
                mutate(&mut input, &inputs, &mut dice);
            }
            target(&input);
        }
        done.send(()).unwrap();
    });
    let deadline = DEADLINE.saturating_mul(u32::try_from(rounds.div_ceil(ROUNDS)).unwrap_or(u32::MAX).max(1));
    let in_time = end.recv_timeout(deadline);
    assert_ne!(in_time, Err(RecvTimeoutError::Timeout), "{}: no end within {deadline:?}", corpus.display());
    if let Err(panic) = work.join() {
        std::panic::resume_unwind(panic);
    }
}

fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(input.len() + 1);
    let end = (at + dice.below(24)).min(input.len());
    match dice.below(8) {
        0 => input.truncate(at),
        1 => drop(input.drain(at..end)),
        2 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
        3 => drop(input.splice(at..end, dice.pick(&WORDS).iter().copied())),
        4 => drop(input.splice(at..at, dice.pick(&WORDS).repeat(1 + dice.below(300)))),
        5 => {
            let other = dice.pick(others);
            let from = dice.below(other.len() + 1);
            input.splice(at..end, other[from..].iter().copied());
        }
        6 => {
            let copy = input[at..end].to_vec();
            input.splice(at..at, copy.repeat(1 + dice.below(64)));
        }
        _ => {
            let copy = input.clone();
            input.splice(at..at, copy);
        }
    }
    input.truncate(LONGEST);
}

/// xorshift64*, by George Marsaglia and Sebastiano Vigna.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(drawn % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
