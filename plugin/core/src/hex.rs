//! Bytes as hexadecimal digits, for names that are made with each command: the standard library's way there is long.

/// The digits of a byte, lower case.
pub(crate) fn digits(byte: u8) -> [char; 2] {
    [byte >> 4, byte & 0xf].map(|half| char::from(if half < 10 { b'0' + half } else { b'a' - 10 + half }))
}

/// The digits of bytes.
pub(crate) fn of(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    text.extend(bytes.iter().flat_map(|byte| digits(*byte)));
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_byte_has_its_digits() {
        for byte in 0..=u8::MAX {
            assert_eq!(super::of(&[byte, !byte]), format!("{byte:02x}{:02x}", !byte));
        }
    }
}
