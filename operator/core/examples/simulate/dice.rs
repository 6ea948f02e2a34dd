//! Chance, from a seed: the same throws every time.

/// A generator (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Dice(u64);

/// What a text is made of that nobody guesses.
#[derive(Clone, Copy, Debug)]
pub struct Drawn(u64);

impl Drawn {
    pub fn text(self) -> String {
        format!("{:016x}", self.0)
    }
}

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to below `sides`.
    pub fn below(&mut self, sides: usize) -> usize {
        let sides = u64::try_from(sides.max(1)).unwrap_or(1);
        usize::try_from(self.throw() % sides).unwrap_or_default()
    }

    /// A time from a half-open range, in milliseconds.
    pub fn time(&mut self, from: i64, to: i64) -> i64 {
        let span = u64::try_from(to - from).unwrap_or(1).max(1);
        from + i64::try_from(self.throw() % span).unwrap_or_default()
    }

    /// True in so many of a thousand throws.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.throw() % 1000 < u64::from(per_mille)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.below(from.len())).copied()
    }

    /// A text that nobody guesses.
    pub fn token(&mut self) -> String {
        Drawn(self.throw()).text()
    }

    /// The same, for one that may not be needed.
    pub fn draw(&mut self) -> Drawn {
        Drawn(self.throw())
    }
}
