//! A folder that is served over TLS on loopback, with a certificate of the test's own.
#![expect(clippy::unwrap_used, reason = "a test says what it expected by failing there")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// Where the folder is, and how it is trusted. The server ends with the process.
pub struct Served {
    /// The folder's URL.
    pub url: String,
    /// The certificate, as curl reads it.
    pub certificate: PathBuf,
}

/// Serves `folder`, and puts the certificate into `certificates`.
pub fn serve(folder: &Path, certificates: &Path) -> Served {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key).unwrap());
    let certificate = certificates.join("server.crt");
    fs::write(&certificate, own.cert.pem()).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (url, folder) = (format!("https://{}", listener.local_addr().unwrap()), folder.to_owned());
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that does not trust the certificate goes away.
            let _ = answer(stream.unwrap(), &config, &folder);
        }
    });
    Served { url, certificate }
}

fn answer(stream: TcpStream, config: &Arc<ServerConfig>, folder: &Path) -> std::io::Result<()> {
    let connection = ServerConnection::new(Arc::clone(config)).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let (mut request, mut line) = (String::new(), String::new());
    stream.read_line(&mut request)?;
    while stream.read_line(&mut line)? > 2 {
        line.clear();
    }
    let name = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let (status, body) = fs::read(folder.join(name)).map_or_else(|_| ("404 Not Found", vec![]), |content| ("200 OK", content));
    let mut stream = stream.into_inner();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(&body)?;
    stream.conn.send_close_notify();
    stream.flush()
}
