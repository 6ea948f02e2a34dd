//! Metrics and health over loopback.

use std::time::Duration;

use azure_vnet_operator::{
    Shutdown,
    telemetry::{Telemetry, serve},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

async fn page(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test(start_paused = true)]
async fn up3_a_busy_metrics_port_is_waited_for() {
    let busy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bind = busy.local_addr().unwrap();
    let (_trigger, shutdown) = Shutdown::manual();
    let mut tasks = tokio::task::JoinSet::new();
    let telemetry = Telemetry::default();
    tasks.spawn(serve(telemetry.clone(), bind, shutdown));
    tokio::time::sleep(Duration::from_secs(25)).await;
    drop(busy);
    tokio::time::sleep(Duration::from_secs(15)).await;
    tokio::time::resume();
    assert!(page(bind.port(), "/healthz").await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(page(bind.port(), "/readyz").await.unwrap().starts_with("HTTP/1.1 503"));
    telemetry.set_ready(true);
    assert!(page(bind.port(), "/readyz").await.unwrap().starts_with("HTTP/1.1 200"));
    let metrics = page(bind.port(), "/metrics").await.unwrap();
    assert!(metrics.contains("process_resident_memory_bytes") && metrics.ends_with("# EOF\n"), "{metrics}");
}

#[tokio::test]
async fn serving_ends_with_the_process() {
    let (trigger, shutdown) = Shutdown::manual();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(serve(Telemetry::default(), "127.0.0.1:0".parse().unwrap(), shutdown));
    trigger.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(30), tasks.join_all()).await.unwrap();
}
