//! One question to a service of the machine's own: plain HTTP, blocking, with a deadline for the whole of it. Never through a proxy.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use azure_vnet_plugin_core::source::{
    endpoint::Endpoint,
    http::{self, HttpError},
};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// No connection, or none any more.
    #[error("{endpoint} does not answer")]
    Silent {
        /// Who.
        endpoint: Endpoint,
        /// Why not.
        source: io::Error,
    },
    /// An answer that says nothing.
    #[error("{endpoint} cannot be asked")]
    Answer {
        /// Who.
        endpoint: Endpoint,
        /// What is wrong.
        source: HttpError,
    },
}

/// Asks, and waits for the whole answer, `patience` at most.
///
/// # Errors
/// See [`GetError`].
pub fn get(endpoint: Endpoint, question: &str, patience: Duration) -> Result<Vec<u8>, GetError> {
    let deadline = Instant::now() + patience;
    let silent = |source| GetError::Silent { endpoint, source };
    left(deadline).map_err(silent)?;
    let mut stream = TcpStream::connect_timeout(&SocketAddr::V4(endpoint.socket()), patience).map_err(silent)?;
    stream.set_write_timeout(Some(left(deadline).map_err(silent)?)).map_err(silent)?;
    stream.write_all(http::request(&endpoint.to_string(), question).as_bytes()).map_err(silent)?;
    let mut answer = Vec::with_capacity(1 << 14);
    let mut part = [0; 1 << 13];
    loop {
        stream.set_read_timeout(Some(left(deadline).map_err(silent)?)).map_err(silent)?;
        let length = match stream.read(&mut part) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            length => length.map_err(silent)?,
        };
        answer.extend_from_slice(part.get(..length).unwrap_or_default());
        if let Some(body) = http::body(&answer, length == 0).map_err(|source| GetError::Answer { endpoint, source })? {
            return Ok(body);
        }
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Answers one question in these parts.
    fn serve(parts: Vec<Vec<u8>>) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = Vec::new();
            let mut part = [0; 512];
            while !question.ends_with(b"\r\n\r\n") {
                let length = stream.read(&mut part).unwrap();
                question.extend_from_slice(&part[..length]);
            }
            for part in parts {
                if stream.write_all(&part).is_err() {
                    return;
                }
            }
        });
        endpoint
    }

    #[test]
    fn an_answer_in_parts_is_put_together() {
        let body = vec![b'x'; 20_000];
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let endpoint = serve(vec![head.into_bytes(), body[..9].to_vec(), body[9..].to_vec()]);
        assert_eq!(get(endpoint, "/", LONG).unwrap(), body);
    }

    #[test]
    fn an_answer_without_end_and_one_that_is_cut_off_are_refused() {
        let endless = serve(vec![b"HTTP/1.0 200 OK\r\n\r\n".to_vec(), vec![b'x'; 1 << 20]]);
        assert!(matches!(get(endless, "/", LONG), Err(GetError::Answer { source: HttpError::TooLong, .. })));
        let cut = serve(vec![b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nxx".to_vec()]);
        assert!(matches!(get(cut, "/", LONG), Err(GetError::Answer { source: HttpError::CutOff, .. })));
    }

    #[test]
    fn silence_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint: Endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        assert!(matches!(get(endpoint, "/", Duration::from_millis(20)), Err(GetError::Silent { .. })));
        drop(listener);
        assert!(matches!(get(endpoint, "/", LONG), Err(GetError::Silent { .. })), "nobody listens");
    }
}
