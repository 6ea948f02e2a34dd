//! As much of HTTP as a question to a service of the machine's own takes: one GET, one bounded answer.

use httparse::{EMPTY_HEADER, Response, Status};

/// No answer that is meant is longer: 256 addresses take 20 KB.
pub const MOST: usize = 1 << 18;
const MOST_HEADERS: usize = 64;

/// Why an answer is not to be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// It says that it has none.
    #[error("it answers with HTTP status {0}")]
    Status(u16),
    /// Not HTTP.
    #[error("its answer is no HTTP")]
    Malformed,
    /// It goes on and on.
    #[error("its answer is longer than {MOST} bytes")]
    TooLong,
    /// The connection ended before the answer did.
    #[error("its answer is cut off")]
    CutOff,
}

/// The question.
#[must_use]
pub fn request(host: &str, question: &str) -> String {
    format!("GET {question} HTTP/1.1\r\nHost: {host}\r\nMetadata: true\r\nAccept: */*\r\nConnection: close\r\n\r\n")
}

/// The body, once all of it is there; `ended` says that no more bytes come.
///
/// # Errors
/// See [`HttpError`].
pub fn body(bytes: &[u8], ended: bool) -> Result<Option<Vec<u8>>, HttpError> {
    if bytes.len() > MOST {
        return Err(HttpError::TooLong);
    }
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut response = Response::new(&mut headers);
    let head = match response.parse(bytes).map_err(|_| HttpError::Malformed)? {
        Status::Complete(head) => head,
        Status::Partial if ended => return Err(HttpError::CutOff),
        Status::Partial => return Ok(None),
    };
    match response.code {
        Some(200) => {}
        Some(status) => return Err(HttpError::Status(status)),
        None => return Err(HttpError::Malformed),
    }
    let header = |name: &str| response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value);
    let rest = bytes.get(head..).unwrap_or_default();
    let whole = if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case(b"chunked")) {
        chunks(rest)?
    } else if let Some(length) = header("content-length") {
        let length = std::str::from_utf8(length).ok().and_then(|text| text.trim().parse::<usize>().ok()).ok_or(HttpError::Malformed)?;
        if length > MOST {
            return Err(HttpError::TooLong);
        }
        rest.get(..length).map(<[u8]>::to_vec)
    } else {
        ended.then(|| rest.to_vec())
    };
    if whole.is_none() && ended { Err(HttpError::CutOff) } else { Ok(whole) }
}

fn chunks(mut rest: &[u8]) -> Result<Option<Vec<u8>>, HttpError> {
    let mut body = Vec::new();
    loop {
        let (start, length) = match httparse::parse_chunk_size(rest).map_err(|_| HttpError::Malformed)? {
            Status::Complete((start, length)) => {
                (start, usize::try_from(length).ok().filter(|length| *length <= MOST).ok_or(HttpError::TooLong)?)
            }
            Status::Partial => return Ok(None),
        };
        if length == 0 {
            return Ok(Some(body));
        }
        let after = rest.get(start..).unwrap_or_default();
        let Some((chunk, next)) = after.split_at_checked(length).and_then(|(chunk, next)| Some((chunk, next.get(2..)?))) else {
            return Ok(None);
        };
        body.extend_from_slice(chunk);
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n";
    const OPEN: &[u8] = b"HTTP/1.0 200 OK\r\n\r\nhello";

    #[test]
    fn a_body_is_whole_or_not_there_yet_or_cut_off() {
        for (answer, needs_end) in [(SIZED, false), (CHUNKED, false), (OPEN, true)] {
            for length in 0..answer.len() {
                let part = &answer[..length];
                let ended = body(part, true);
                assert!(answer == OPEN || answer == CHUNKED || ended == Err(HttpError::CutOff), "{ended:?}");
            }
            assert_eq!(body(answer, needs_end), Ok(Some(b"hello".to_vec())));
            assert_eq!(body(&answer[..answer.len() / 2], false), Ok(None));
        }
    }

    #[test]
    fn what_is_no_good_answer_is_refused() {
        assert_eq!(body(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", false), Err(HttpError::Status(410)));
        assert_eq!(body(b"SSH-2.0-OpenSSH_9\r\n", false), Err(HttpError::Malformed));
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", false), Err(HttpError::TooLong));
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n", false), Err(HttpError::TooLong));
        assert_eq!(body(&vec![b'a'; MOST + 1], false), Err(HttpError::TooLong));
    }

    proptest! {
        #[test]
        fn damaged_answers_never_panic(at in any::<prop::sample::Index>(), with: Vec<u8>, cut in 0..40_usize, ended: bool, chunked: bool) {
            let mut bytes = if chunked { CHUNKED } else { SIZED }.to_vec();
            let at = at.index(bytes.len());
            bytes.splice(at..(at + cut).min(bytes.len()), with);
            let _ = body(&bytes, ended);
        }
    }
}
