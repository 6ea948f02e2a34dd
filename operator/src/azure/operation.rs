//! Asynchronous operations: how an answer to a PUT says where its end can be watched, and what a poll says. Pure.

use azure_vnet_operator_core::arm::{Error, Operation as State, Trace};
use http::{HeaderMap, Response, StatusCode, header};
use reqwest::Url;
use serde_json::Value;

use super::endpoint::trusted;

/// What a successful answer to a PUT means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// It is done.
    Done,
    /// It goes on; this URL tells.
    Running(Watch),
    /// It ended badly already.
    Ended(Error),
}

/// Where an operation is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Used verbatim: it is signed.
    pub url: Url,
    /// How its answers read.
    pub style: Style,
}

/// How answers to polls read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `Azure-AsyncOperation`: a body with `status`; HTTP is 200 also for failures.
    Status,
    /// `Location`: 202 while it runs.
    Location,
    /// No header was given: the resource's own `provisioningState`.
    Resource,
}

/// Reads the answer to a PUT to `url`.
///
/// # Errors
/// It says that it goes on and names a place that must not be sent a token.
pub fn started(arm: &Url, url: &Url, answer: &Response<Vec<u8>>) -> Result<Started, Error> {
    let body: Value = serde_json::from_slice(answer.body()).unwrap_or(Value::Null);
    let state = provisioning_state(&body);
    if let Some(place) = place(answer.headers(), "azure-asyncoperation") {
        return watch(arm, place, Style::Status);
    }
    if let Some(place) = place(answer.headers(), header::LOCATION.as_str()).filter(|_| answer.status() == StatusCode::ACCEPTED) {
        return watch(arm, place, Style::Location);
    }
    Ok(match state {
        Settled::Going => Started::Running(Watch { url: url.clone(), style: Style::Resource }),
        Settled::Well => Started::Done,
        Settled::Badly => Started::Ended(ended(&body)),
    })
}

/// Reads the answer to a poll.
#[must_use]
pub fn polled(style: Style, answer: &Response<Vec<u8>>) -> State {
    match style {
        Style::Status => State::parse(answer.body()),
        Style::Location if answer.status() == StatusCode::ACCEPTED => State::Running,
        Style::Location => State::Succeeded,
        Style::Resource => {
            let body = serde_json::from_slice(answer.body()).unwrap_or(Value::Null);
            match provisioning_state(&body) {
                Settled::Going => State::Running,
                Settled::Well => State::Succeeded,
                Settled::Badly => State::Ended(ended(&body)),
            }
        }
    }
}

enum Settled {
    Going,
    Well,
    Badly,
}

/// A resource without a state is settled: not every provider reports one.
fn provisioning_state(body: &Value) -> Settled {
    match body.pointer("/properties/provisioningState").and_then(Value::as_str) {
        None => Settled::Well,
        Some(state) if state.eq_ignore_ascii_case("Succeeded") => Settled::Well,
        Some(state) if ["Failed", "Canceled", "Cancelled"].iter().any(|bad| state.eq_ignore_ascii_case(bad)) => Settled::Badly,
        Some(_) => Settled::Going,
    }
}

/// A resource that says `Failed` names no code; the shape is that of a failed operation.
fn ended(body: &Value) -> Error {
    let state = body.pointer("/properties/provisioningState").and_then(Value::as_str).unwrap_or("Failed");
    let message = "the resource was left in this provisioning state";
    let poll = serde_json::json!({"status": state, "error": {"code": format!("Provisioning{state}"), "message": message}});
    match State::parse(poll.to_string().as_bytes()) {
        State::Ended(error) => error,
        State::Running | State::Succeeded => Error::transport(Trace::Ended, message.to_owned()),
    }
}

fn place<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn watch(arm: &Url, place: &str, style: Style) -> Result<Started, Error> {
    let url = arm.join(place).ok().filter(|url| trusted(arm, url));
    let watch = |url| Started::Running(Watch { url, style });
    let refuse =
        || Error::transport(Trace::Unknown, "the answer names an operation outside Resource Manager; it is not followed".to_owned());
    url.map(watch).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use azure_vnet_operator_core::arm::Class;

    use super::*;

    fn arm() -> Url {
        Url::parse("https://management.azure.com").unwrap()
    }

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Response<Vec<u8>> {
        let mut builder = Response::builder().status(status);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(body.as_bytes().to_vec()).unwrap()
    }

    fn start(status: u16, headers: &[(&str, &str)], body: &str) -> Result<Started, Error> {
        started(&arm(), &arm().join("/nic").unwrap(), &answer(status, headers, body))
    }

    fn running(url: &str, style: Style) -> Started {
        Started::Running(Watch { url: arm().join(url).unwrap(), style })
    }

    #[test]
    fn each_way_of_going_on_is_followed() {
        let both = [("Azure-AsyncOperation", "https://management.azure.com/op?t=1"), ("Location", "https://management.azure.com/loc")];
        assert_eq!(start(202, &both, ""), Ok(running("/op?t=1", Style::Status)));
        assert_eq!(start(200, &both, r#"{"properties":{"provisioningState":"Updating"}}"#), Ok(running("/op?t=1", Style::Status)));
        assert_eq!(start(202, &[("Location", "/loc")], ""), Ok(running("/loc", Style::Location)));
        assert_eq!(start(200, &[("Location", "/loc")], "{}"), Ok(Started::Done));
        assert_eq!(start(200, &[], r#"{"properties":{"provisioningState":"Updating"}}"#), Ok(running("/nic", Style::Resource)));
        assert_eq!(start(201, &[], r#"{"properties":{"provisioningState":"Succeeded"}}"#), Ok(Started::Done));
        let Ok(Started::Ended(error)) = start(200, &[], r#"{"properties":{"provisioningState":"Failed"}}"#) else { panic!("not ended") };
        assert_eq!((error.class, error.trace, error.code.as_str()), (Class::Failed, Trace::Ended, "ProvisioningFailed"));
    }

    #[test]
    fn a_foreign_operation_url_is_not_followed() {
        let error = start(202, &[("Azure-AsyncOperation", "https://example.com/op")], "").unwrap_err();
        assert_eq!(error.trace, Trace::Unknown);
    }

    #[test]
    fn polls_read_by_style() {
        assert_eq!(polled(Style::Status, &answer(200, &[], r#"{"status":"Succeeded"}"#)), State::Succeeded);
        assert_eq!(polled(Style::Location, &answer(202, &[], "")), State::Running);
        assert_eq!(polled(Style::Location, &answer(204, &[], "")), State::Succeeded);
        assert_eq!(polled(Style::Resource, &answer(200, &[], r#"{"properties":{"provisioningState":"Updating"}}"#)), State::Running);
    }
}
