//! JSON objects whose keys count in any casing, as the original's parser takes them.

use serde_json::{Map, Value};

/// A view of an object. A key in its exact casing wins over others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object<'a>(&'a Map<String, Value>);

/// A field of the wrong type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key:?} is {found}, and is to be {expected}")]
pub(crate) struct TypeError {
    key: String,
    expected: &'static str,
    found: &'static str,
}

impl<'a> Object<'a> {
    pub(crate) fn of(value: &'a Value) -> Option<Self> {
        value.as_object().map(Self)
    }

    /// The field, unless it is absent or null.
    pub(crate) fn get(self, key: &str) -> Option<&'a Value> {
        let mut same = self.0.iter().filter(|(name, _)| name.eq_ignore_ascii_case(key));
        let first = same.next()?;
        // Others come into question only where two names differ in nothing but their casing.
        let (_, value) = if first.0 == key { first } else { same.find(|(name, _)| *name == key).unwrap_or(first) };
        Some(value).filter(|value| !value.is_null())
    }

    pub(crate) fn object(self, key: &str) -> Result<Option<Self>, TypeError> {
        self.typed(key, "an object", Self::of)
    }

    /// The text, unless it is absent or empty.
    pub(crate) fn text(self, key: &str) -> Result<Option<&'a str>, TypeError> {
        Ok(self.typed(key, "a string", Value::as_str)?.filter(|text| !text.is_empty()))
    }

    pub(crate) fn flag(self, key: &str) -> Result<bool, TypeError> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or_default())
    }

    pub(crate) fn list(self, key: &str) -> Result<&'a [Value], TypeError> {
        Ok(self.typed(key, "a list", Value::as_array)?.map(Vec::as_slice).unwrap_or_default())
    }

    pub(crate) fn texts(self, key: &str) -> Result<Vec<String>, TypeError> {
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| TypeError::new(key, "a list of strings", value));
        self.list(key)?.iter().map(text).collect()
    }

    /// The fields but for these.
    pub(crate) fn without(self, keys: &[&str]) -> Map<String, Value> {
        let is_other = |name: &&String| !keys.iter().any(|key| name.eq_ignore_ascii_case(key));
        self.0.iter().filter(|(name, _)| is_other(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn typed<T>(self, key: &str, expected: &'static str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, TypeError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| TypeError::new(key, expected, value))
    }
}

impl TypeError {
    fn new(key: &str, expected: &'static str, value: &Value) -> Self {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        Self { key: key.to_owned(), expected, found }
    }
}
