//! Takes secrets out of what leaves the cluster in a support bundle. What looks like one goes, whatever it is called: a bundle is for strangers.

use std::collections::BTreeMap;

use serde_json::Value;

/// Stands where a secret was.
pub const REDACTED: &str = "[redacted]";

/// Parts of names whose values are secrets.
const NAMES: [&str; 11] = [
    "password",
    "passwd",
    "secret",
    "token",
    "credential",
    "apikey",
    "api_key",
    "privatekey",
    "connectionstring",
    "authorization",
    "nonce",
];
/// What a secret follows in a text.
const BEFORE: [&str; 10] = [
    "bearer ",
    "basic ",
    "client_secret=",
    "client_assertion=",
    "password=",
    "accountkey=",
    "sharedaccesskey=",
    "sig=",
    "access_token=",
    "token=",
];

/// What was replaced by what, so that the same thing has the same name throughout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redaction {
    subscriptions: BTreeMap<String, String>,
}

/// Redacts one object. Managed fields and annotations of others go as a whole: `last-applied-configuration` holds a second copy of everything.
#[must_use]
pub fn redact(value: Value, redaction: &mut Redaction) -> Value {
    match value {
        Value::String(text) => Value::String(redaction.text(&text)),
        Value::Array(items) => Value::Array(items.into_iter().map(|item| redact(item, redaction)).collect()),
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(key, _)| key != "managedFields" && key != "annotations")
                .map(|(key, value)| {
                    let value = if is_secret(&key, &value) { Value::String(REDACTED.into()) } else { redact(value, redaction) };
                    (redaction.text(&key), value)
                })
                .collect(),
        ),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => other,
    }
}

/// A name speaks of a secret where its value can be one: a name of a Secret, or whether there is one, is none.
fn is_secret(key: &str, value: &Value) -> bool {
    let key = key.to_ascii_lowercase().replace('-', "");
    let named = NAMES.iter().any(|name| key.contains(name)) && !key.ends_with("name");
    named && !matches!(value, Value::Bool(_) | Value::Null)
}

impl Redaction {
    fn text(&mut self, text: &str) -> String {
        if text.contains("-----BEGIN") {
            return REDACTED.into();
        }
        let text = self.subscriptions(text);
        let text = without_user(&text);
        let text = after_names(&text);
        without_long_words(&text)
    }

    /// A subscription is not secret, but nobody's business: each gets a number.
    fn subscriptions(&mut self, text: &str) -> String {
        const BEFORE: &str = "/subscriptions/";
        let (mut done, mut rest) = (String::new(), text.to_owned());
        while let Some(at) = rest.to_ascii_lowercase().find(BEFORE) {
            let begin = at + BEFORE.len();
            let id: String = rest.get(begin..).unwrap_or_default().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            done += rest.get(..begin).unwrap_or_default();
            if !id.is_empty() {
                let next = format!("subscription-{}", self.subscriptions.len() + 1);
                done += self.subscriptions.entry(id.to_ascii_lowercase()).or_insert(next);
            }
            rest = rest.get(begin + id.len()..).unwrap_or_default().to_owned();
        }
        done += &rest;
        for (id, name) in &self.subscriptions {
            done = done.replace(id.as_str(), name);
        }
        done
    }
}

/// `https://user:password@host` without the user.
fn without_user(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', ' ', '"']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or_else(|| authority.to_owned(), |(_, host)| format!("{REDACTED}@{host}"));
    format!("{scheme}://{host}{}", without_user(after))
}

/// What follows `password=` and its like, to the end of the word.
fn after_names(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let first = BEFORE.iter().filter_map(|before| lower.find(before).map(|at| at + before.len())).min();
    let Some(begin) = first else { return text.to_owned() };
    let (kept, rest) = text.split_at(begin);
    let end = rest.find(['&', ' ', ';', '"', '\'', ',', '\n']).unwrap_or(rest.len());
    let (_, after) = rest.split_at(end);
    format!("{kept}{REDACTED}{}", after_names(after))
}

/// JSON web tokens, and words too long and too mixed to be anything but keys.
fn without_long_words(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '=' | '.' | '~');
    let (mut done, mut word) = (String::new(), String::new());
    for c in text.chars().map(Some).chain([None]) {
        match c {
            Some(c) if is_word(c) => word.push(c),
            other => {
                done += if is_key(&word) { REDACTED } else { &word };
                word.clear();
                done.extend(other);
            }
        }
    }
    done
}

fn is_key(word: &str) -> bool {
    let token = word.starts_with("eyJ") && word.len() >= 20;
    let count = |kind: fn(&char) -> bool| word.chars().filter(kind).count();
    let mixed = count(char::is_ascii_uppercase) >= 3 && count(char::is_ascii_lowercase) >= 3 && count(char::is_ascii_digit) >= 3;
    // A client secret has 37 to 40 characters. Nothing of Kubernetes' or ours mixes so: names have no upper case.
    token || (mixed && word.len() >= 30)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn redacted(value: Value) -> String {
        redact(value, &mut Redaction::default()).to_string()
    }

    const SECRETS: [&str; 3] = ["eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl", "abc8Q~XyZ123abcDEF456ghiJKL789mnoPQRstu0", "hunter2"];

    #[test]
    fn no_secret_passes() {
        let [token, secret, password] = SECRETS;
        let objects = [
            json!({"env": [{"name": "X", "clientSecret": password}], "metadata": {"annotations": {"a": password}, "managedFields": [password]}}),
            json!({"message": format!("401 with Authorization: Bearer {token}")}),
            json!({"message": format!("POST body client_id=a&client_secret={password}&scope=b")}),
            json!({"message": format!("AADSTS7000215: Invalid client secret {secret} for app")}),
            json!({"proxy": format!("http://user:{password}@proxy:3128/x")}),
            json!({"url": format!("https://account.blob/x?sv=1&sig={password}&se=2")}),
            json!({"note": "-----BEGIN PRIVATE KEY-----\nhunter2\n"}),
            json!({"data": {"access_token": password, "tokens": [password], "nonce": password}}),
            json!({token: "as a key"}),
        ];
        for object in objects {
            let text = redacted(object);
            assert!(SECRETS.iter().all(|secret| !text.contains(secret)), "{text}");
            assert!(text.contains(REDACTED) || text.contains("metadata"), "{text}");
        }
    }

    #[test]
    fn what_support_needs_stays() {
        let object = json!({
            "metadata": {"name": "aks-nodepool1-12345678-vmss000000", "uid": "3f2a9a8e-1111-2222-3333-444455556666"},
            "message": "cannot write the NIC: the etag W/\"00000000-1111\" is stale",
            "secretName": "azure-vnet",
            "automountServiceAccountToken": false,
            "addresses": ["3/10.1.4.7"],
        });
        assert_eq!(redact(object.clone(), &mut Redaction::default()), object);
    }

    #[test]
    fn a_subscription_has_one_number_everywhere() {
        let mut redaction = Redaction::default();
        let id = "0a1b2c3d-0000-1111-2222-333344445555";
        let first = redact(json!(format!("/subscriptions/{id}/resourceGroups/g")), &mut redaction);
        let second = redact(json!(format!("azure:///Subscriptions/{}/x and {id}", id.to_uppercase())), &mut redaction);
        assert_eq!(first, json!("/subscriptions/subscription-1/resourceGroups/g"));
        assert_eq!(second, json!("azure:///Subscriptions/subscription-1/x and subscription-1"));
    }

    proptest! {
        #[test]
        fn no_secret_passes_wherever_it_stands(before in ".{0,20}", after in ".{0,20}", at in 0_usize..2, depth in 0_usize..4) {
            let secret = SECRETS[at];
            let mut value = json!(format!("{before} {secret} {after}"));
            for level in 0..depth {
                value = if level % 2 == 0 { json!([value]) } else { json!({"x": value}) };
            }
            prop_assert!(!redacted(value).contains(secret));
        }

        #[test]
        fn redacting_twice_changes_nothing(text in ".{0,80}") {
            let mut redaction = Redaction::default();
            let once = redact(json!(text), &mut redaction);
            prop_assert_eq!(redact(once.clone(), &mut redaction), once);
        }
    }
}
