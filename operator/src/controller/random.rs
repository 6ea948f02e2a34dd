//! Randomness for names that nobody else may have drawn.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io::Read as _,
};

/// 128 random bits in hexadecimal.
pub fn token() -> String {
    let mut bytes = [0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    if read.is_ok() {
        return format!("{:032x}", u128::from_be_bytes(bytes));
    }
    // Seeded by the kernel at the start of the process: enough to differ from others, which is all that is needed.
    let half = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", half(), half())
}
