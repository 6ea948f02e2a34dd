//! Tokens: issued by the authority and by IMDS, random, expiring, and asked for by ARM.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::answer::{Answer, Request};
use super::cloud::Cloud;
use super::error::ArmError;

#[derive(Debug, Default)]
pub(super) struct Tokens {
    issued: BTreeMap<String, Token>,
}

#[derive(Debug, Clone)]
struct Token {
    client: String,
    expires: Duration,
}

/// Why the authority gives no token: error, description, AADSTS number.
type Refused = (&'static str, String, u32);

impl Cloud {
    /// The client id behind the request's bearer token.
    pub fn authenticate(&self, request: &Request) -> Result<String, ArmError> {
        if !self.settings.authentication {
            return Ok("anonymous".into());
        }
        let Some(token) = request.header("authorization").and_then(|header| header.strip_prefix("Bearer ")) else {
            let message = "Authentication failed. The 'Authorization' header is missing.";
            return Err(ArmError::compute(401, "AuthenticationFailed", message));
        };
        let invalid = || ArmError::compute(401, "InvalidAuthenticationToken", "The access token is invalid.");
        let token = self.tokens.issued.get(token).ok_or_else(invalid)?;
        if token.expires <= self.now {
            let message = format!(
                "The access token expiry UTC time '{}' is earlier than current UTC time '{}'.",
                self.timestamp(token.expires),
                self.timestamp(self.now)
            );
            return Err(ArmError::compute(401, "ExpiredAuthenticationToken", message));
        }
        Ok(token.client.clone())
    }

    pub fn revoke_tokens(&mut self) {
        self.tokens.issued.clear();
    }

    /// `POST /{tenant}/oauth2/v2.0/token`.
    pub fn authority(&mut self, request: &Request) -> (Answer, String) {
        let form = Request::parse_query(&String::from_utf8_lossy(&request.body));
        let field = |name: &str| form.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str()).unwrap_or_default();
        let client = field("client_id").to_owned();
        match self.judge_client(&request.path, field) {
            Ok(()) => {
                let lifetime = self.settings.token_seconds;
                let token = self.issue(&client);
                let body = json!({ "token_type": "Bearer", "expires_in": lifetime, "ext_expires_in": lifetime, "access_token": token });
                (Answer::json(200, body), client)
            }
            Err((error, description, number)) => {
                let correlation = self.guid();
                let body = json!({
                    "error": error, "error_description": format!("AADSTS{number}: {description}"), "error_codes": [number],
                    "timestamp": self.timestamp(self.now), "trace_id": self.guid(), "correlation_id": correlation,
                });
                let status = if error == "invalid_client" { 401 } else { 400 };
                (Answer { code: Some(error.into()), ..Answer::json(status, body) }, client)
            }
        }
    }

    pub fn issue(&mut self, client: &str) -> String {
        let token = random_token();
        let expires = self.now.saturating_add(Duration::from_secs(self.settings.token_seconds));
        self.tokens.issued.insert(token.clone(), Token { client: client.into(), expires });
        token
    }

    fn judge_client<'a>(&self, path: &str, field: impl Fn(&str) -> &'a str) -> Result<(), Refused> {
        let directory = &self.directory;
        let tenant = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        if tenant != directory.tenant {
            return Err(("invalid_request", format!("Tenant '{tenant}' not found."), 90_002));
        }
        if field("grant_type") != "client_credentials" {
            return Err(("unsupported_grant_type", "The grant type is not supported.".into(), 70_003));
        }
        if !field("scope").ends_with("/.default") {
            return Err(("invalid_scope", format!("The provided value for scope {} is not valid.", field("scope")), 1_002_012));
        }
        if field("client_id") != directory.client_id {
            let message = format!("Application with identifier '{}' was not found in the directory.", field("client_id"));
            return Err(("unauthorized_client", message, 700_016));
        }
        if field("client_assertion").is_empty() {
            let known = directory.client_secret.as_deref().is_some_and(|secret| secret == field("client_secret"));
            return if known { Ok(()) } else { Err(("invalid_client", "Invalid client secret provided.".into(), 7_000_215)) };
        }
        if field("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
            return Err(("invalid_request", "The client assertion type is not supported.".into(), 900_144));
        }
        self.judge_assertion(field("client_assertion"))
    }

    /// Audience, subject and time of a federated token; its signature is the issuer's affair.
    fn judge_assertion(&self, assertion: &str) -> Result<(), Refused> {
        let payload = assertion.split('.').nth(1).and_then(decode_base64url);
        let claims: Value = payload.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let audience = claims.get("aud").cloned().unwrap_or_default();
        let wanted = json!("api://AzureADTokenExchange");
        if audience != wanted && !audience.as_array().is_some_and(|audiences| audiences.contains(&wanted)) {
            return Err((
                "invalid_client",
                "No matching federated identity record found for presented assertion audience.".into(),
                700_212,
            ));
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        if self.directory.federated_subject.as_deref().is_some_and(|wanted| wanted != subject) {
            let message = format!("No matching federated identity record found for presented assertion subject '{subject}'.");
            return Err(("invalid_client", message, 700_213));
        }
        if claims.get("exp").and_then(Value::as_i64).is_none_or(|expires| expires <= self.unix()) {
            return Err(("invalid_client", "Client assertion is not within its valid time range.".into(), 700_024));
        }
        Ok(())
    }
}

/// Nobody guesses a token: the operator must have fetched it.
fn random_token() -> String {
    let mut bytes = [0u8; 24];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    debug_assert!(read.is_ok(), "/dev/urandom gives bytes");
    bytes.map(|byte| format!("{byte:02x}")).concat()
}

fn decode_base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut buffer, mut bits) = (0u32, 0u32);
    for character in text.trim_end_matches('=').bytes() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'-' | b'+' => 62,
            b'_' | b'/' => 63,
            _ => return None,
        };
        buffer = (buffer << 6 | u32::from(value)) & 0xf_ffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(buffer >> bits & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::decode_base64url;

    #[test]
    fn base64url_is_decoded_with_and_without_padding() {
        assert_eq!(decode_base64url("eyJhIjoxfQ"), Some(br#"{"a":1}"#.to_vec()));
        assert_eq!(decode_base64url("eyJhIjoxfQ=="), Some(br#"{"a":1}"#.to_vec()));
        assert_eq!(decode_base64url("a b"), None);
    }
}
