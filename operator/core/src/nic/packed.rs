//! A document as it is kept between two passes: a tree of values takes some ten times the room of its text, and there is one for each node.

use serde_json::Value;

/// The text of a JSON document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packed(Box<str>);

impl Packed {
    /// Keeps a document.
    pub(super) fn of(tree: &Value) -> Self {
        Self(tree.to_string().into())
    }

    /// The document.
    pub(super) fn tree(&self) -> Value {
        // It is the text of a value, which is always one of a value again.
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_comes_back_as_it_was() {
        let tree = json!({"a": [1, -2, 18_446_744_073_709_551_615_u64, 0.1, null, true], "ü\"\\": {"nested": {"": "x\u{1f}"}}});
        assert_eq!(Packed::of(&tree).tree(), tree);
    }
}
