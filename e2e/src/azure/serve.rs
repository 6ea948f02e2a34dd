//! HTTP around the cloud: reads requests whole, hands them over, delivers answers as they ask to be. It knows nothing of Azure.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body as HttpBody, Bytes, to_bytes};
use axum::http::{Request as HttpRequest, Response, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::answer::{Answer, Body, Delivery, Request};

/// The largest body that is read: 256 IP configurations are about 200 KB.
const LARGEST_BODY: usize = 8 * 1024 * 1024;
/// How long a connection is held that will never be answered.
const SILENCE: Duration = Duration::from_mins(2);

/// Answers a request.
pub(super) type Handler = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

pub(super) async fn tcp(listener: TcpListener, tls: Option<TlsAcceptor>, handler: Handler) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            Ok((stream, peer)) = listener.accept() => {
                let handler = handler.clone();
                let peer = peer.ip();
                match tls.clone() {
                    Some(tls) => connections.spawn(async move {
                        if let Ok(stream) = tls.accept(stream).await {
                            connection(stream, Edge { handler, peer, scheme: "https" }).await;
                        }
                    }),
                    None => connections.spawn(connection(stream, Edge { handler, peer, scheme: "http" })),
                };
            }
        }
    }
}

pub(super) async fn unix(listener: UnixListener, handler: Handler) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            Ok((stream, _)) = listener.accept() => {
                let peer = IpAddr::from([127, 0, 0, 1]);
                connections.spawn(connection(stream, Edge { handler: handler.clone(), peer, scheme: "http" }));
            }
        }
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, edge: Edge) {
    // A caller that goes away, or is cut off, is no fault of ours.
    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), TowerToHyperService::new(edge)).await;
}

/// One connection's view of the handler.
#[derive(Clone)]
struct Edge {
    handler: Handler,
    peer: IpAddr,
    scheme: &'static str,
}

impl<B> tower::Service<HttpRequest<B>> for Edge
where
    B: axum::body::HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response<HttpBody>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<B>) -> Self::Future {
        let Self { handler, peer, scheme } = self.clone();
        Box::pin(async move {
            let request = read(request.map(HttpBody::new), peer, scheme).await?;
            deliver(handler(&request)).await
        })
    }
}

async fn read(request: HttpRequest<HttpBody>, peer: IpAddr, scheme: &'static str) -> io::Result<Request> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, LARGEST_BODY).await.map_err(io::Error::other)?;
    let headers: BTreeMap<String, String> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let target = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    Ok(Request {
        method: parts.method.to_string(),
        path: Request::parse_path(parts.uri.path()),
        query: Request::parse_query(parts.uri.query().unwrap_or_default()),
        target,
        headers,
        body: body.to_vec(),
        peer,
        scheme,
    })
}

async fn deliver(answer: Answer) -> io::Result<Response<HttpBody>> {
    let cut = || Err(io::Error::from(io::ErrorKind::ConnectionAborted));
    match answer.delivery {
        Delivery::AtOnce | Delivery::Truncated => {}
        Delivery::After(delay) => tokio::time::sleep(delay).await,
        Delivery::Cut => return cut(),
        Delivery::Hang => {
            tokio::time::sleep(SILENCE).await;
            return cut();
        }
    }
    let (content_type, mut body) = match answer.body {
        Body::None => (None, String::new()),
        Body::Json(value) => (Some("application/json; charset=utf-8"), value.to_string()),
        Body::Text { content_type, text } => (Some(content_type), text),
    };
    if answer.delivery == Delivery::Truncated {
        body.truncate(body.len() / 2);
    }
    let mut response = Response::builder().status(answer.status);
    if let Some(content_type) = content_type {
        response = response.header(header::CONTENT_TYPE, content_type);
    }
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    response.body(HttpBody::from(body)).map_err(io::Error::other)
}
