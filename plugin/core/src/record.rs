//! The text that store files are made of: one line that names format, kind and checksum, then one `key value` line for each field, in fixed order.
//! What is torn, damaged or of another version is refused as a whole; nothing is read by halves.

use std::{
    borrow::Cow,
    fmt::{Display, Write as _},
    str::FromStr,
};

use crate::hex;

const MAGIC: &str = "azure-vnet";
const VERSION: u32 = 1;

/// Why a file's content is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not a record at all, or cut off.
    #[error("it is no record of a node store")]
    Foreign,
    /// A record of another version of the format.
    #[error("it is a record of format {0}, and this program reads format {VERSION}")]
    Version(u32),
    /// The checksum does not fit the content.
    #[error("its checksum does not fit its content")]
    Checksum,
    /// A whole record of another kind.
    #[error("it is a record of another kind than {0}")]
    Kind(&'static str),
    /// A field is missing, unknown, misplaced or has no valid value.
    #[error("its field {0:?} has no valid value")]
    Field(&'static str),
    /// The record goes on after its last field.
    #[error("it has more fields than it may have")]
    Surplus,
}

/// Prints a record.
pub(crate) struct Writer {
    kind: &'static str,
    body: String,
}

impl Writer {
    pub(crate) fn new(kind: &'static str) -> Self {
        Self { kind, body: String::with_capacity(384) }
    }

    pub(crate) fn field(mut self, key: &'static str, value: impl Display) -> Self {
        let start = self.body.len();
        let _ = write!(self.body, "{key} {value}");
        if self.body.bytes().skip(start).any(|byte| matches!(byte, b'\n' | b'\\')) {
            let escaped = escape(self.body.get(start..).unwrap_or_default());
            self.body.truncate(start);
            self.body.push_str(&escaped);
        }
        self.body.push('\n');
        self
    }

    /// Leaves the line out where there is no value.
    pub(crate) fn optional(self, key: &'static str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.field(key, value),
            None => self,
        }
    }

    pub(crate) fn finish(self) -> String {
        let Self { kind, body } = self;
        format!("{MAGIC} {VERSION} {kind} {}\n{body}", checksum(kind, &body))
    }
}

/// Walks the fields of a record whose checksum was right.
pub(crate) struct Reader<'a> {
    kind: &'a str,
    /// The lines that are not read yet, each with its end.
    rest: &'a str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let text = std::str::from_utf8(bytes).map_err(|_| RecordError::Foreign)?;
        let (head, body) = text.split_once('\n').ok_or(RecordError::Foreign)?;
        let mut words = head.split(' ');
        if words.next() != Some(MAGIC) {
            return Err(RecordError::Foreign);
        }
        let version = words.next().and_then(|word| word.parse().ok()).ok_or(RecordError::Foreign)?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let (Some(kind), Some(sum), None) = (words.next(), words.next(), words.next()) else { return Err(RecordError::Foreign) };
        if sum != checksum(kind, body) {
            return Err(RecordError::Checksum);
        }
        if !body.is_empty() && !body.ends_with('\n') {
            return Err(RecordError::Foreign);
        }
        Ok(Self { kind, rest: body })
    }

    pub(crate) fn of_kind(bytes: &'a [u8], kind: &'static str) -> Result<Self, RecordError> {
        let reader = Self::new(bytes)?;
        if reader.kind == kind { Ok(reader) } else { Err(RecordError::Kind(kind)) }
    }

    pub(crate) fn kind(&self) -> &'a str {
        self.kind
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Result<String, RecordError> {
        self.unescaped(key).map(Cow::into_owned)
    }

    pub(crate) fn field<T: FromStr>(&mut self, key: &'static str) -> Result<T, RecordError> {
        self.unescaped(key)?.parse().map_err(|_| RecordError::Field(key))
    }

    pub(crate) fn optional<T: FromStr>(&mut self, key: &'static str) -> Result<Option<T>, RecordError> {
        let Some(value) = self.next_if(key) else { return Ok(None) };
        unescape(value).and_then(|text| text.parse().ok()).map(Some).ok_or(RecordError::Field(key))
    }

    /// Reads the unescaped rest of all lines with this key.
    pub(crate) fn all<T: FromStr>(&mut self, key: &'static str) -> Result<Vec<T>, RecordError> {
        let mut values = Vec::new();
        while let Some(value) = self.next_if(key) {
            values.push(value.parse().map_err(|_| RecordError::Field(key))?);
        }
        Ok(values)
    }

    /// Reads all lines with this key whose values need not be unescaped and tell their own end: `read` answers a value and what follows it.
    pub(crate) fn lines<T>(&mut self, key: &'static str, read: impl Fn(&[u8]) -> Option<(T, &[u8])>) -> Result<Vec<T>, RecordError> {
        let mut values = Vec::new();
        while let Some(line) = self.rest.strip_prefix(key).and_then(|rest| rest.strip_prefix(' ')) {
            let (value, after) = read(line.as_bytes()).ok_or(RecordError::Field(key))?;
            let after = after.strip_prefix(b"\n").ok_or(RecordError::Field(key))?;
            values.push(value);
            self.rest = line.get(line.len() - after.len()..).ok_or(RecordError::Field(key))?;
        }
        Ok(values)
    }

    pub(crate) fn finish(self) -> Result<(), RecordError> {
        if self.rest.is_empty() { Ok(()) } else { Err(RecordError::Surplus) }
    }

    fn unescaped(&mut self, key: &'static str) -> Result<Cow<'a, str>, RecordError> {
        self.next_if(key).and_then(unescape).ok_or(RecordError::Field(key))
    }

    /// The value of the next line, if that has this key.
    fn next_if(&mut self, key: &str) -> Option<&'a str> {
        let value = self.rest.strip_prefix(key)?.strip_prefix(' ')?;
        let end = value.bytes().position(|byte| byte == b'\n')?;
        let (value, rest) = (value.get(..end)?, value.get(end + 1..)?);
        self.rest = rest;
        Some(value)
    }
}

/// As eight digits.
fn checksum(kind: &str, body: &str) -> String {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(kind.as_bytes());
    hasher.update(b"\n");
    hasher.update(body.as_bytes());
    hex::of(&hasher.finalize().to_be_bytes())
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

fn unescape(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('\\') {
        return Some(Cow::Borrowed(text));
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next()? {
                '\\' => '\\',
                'n' => '\n',
                _ => return None,
            },
            c => c,
        });
    }
    Some(Cow::Owned(plain))
}
