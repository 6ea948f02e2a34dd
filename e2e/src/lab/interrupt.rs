//! Ctrl-C: whoever interrupts a demo or a test is left with nothing of its labs.

use std::io::Write as _;
use std::process::exit;
use std::sync::Once;
use std::thread;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

use super::state;
use crate::build::Cache;

/// Takes this process's labs down when it is interrupted or asked to end. Repeating it is harmless.
///
/// # Errors
/// If the signals cannot be waited for.
pub fn take_labs_down_on_signals(cache: &Cache) -> Result<()> {
    static ONCE: Once = Once::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cache = cache.clone();
    ONCE.call_once(move || {
        thread::spawn(move || {
            if runtime.block_on(asked_to_end()).is_ok() {
                end(&cache);
            }
        });
    });
    Ok(())
}

async fn asked_to_end() -> Result<()> {
    let (mut interrupt, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = term.recv() => Ok(()),
    }
}

fn end(cache: &Cache) -> ! {
    let mut out = std::io::stderr();
    let _ = writeln!(out, "\ninterrupted: taking the lab down");
    match state::end_own(cache) {
        Ok(()) => {
            let _ = writeln!(out, "nothing of it is left");
        }
        Err(error) => {
            let _ = writeln!(out, "error: {error:#}");
        }
    }
    exit(130)
}
