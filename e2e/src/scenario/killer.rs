//! Controllers that die again and again, whatever else is done to the cluster meanwhile.

use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::failover::Leader;
use super::{Cluster, wait_for};
use crate::lab::Lab;

/// Between two blows.
const BEAT: Duration = Duration::from_mins(1);
/// A leader that is being replaced has given the lease up, and its node may be off: another may have to come first.
const FOUND: Duration = Duration::from_secs(90);
/// Until another leads: the dead one's lease has to end, and of two controllers one may be on a node that boots.
const TAKEN_OVER: Duration = Duration::from_mins(2);

/// What was struck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blows {
    /// Leaders that were killed, each of which another followed.
    pub leaders: u32,
    /// The longest time from a kill to another leader.
    pub longest: Duration,
}

impl fmt::Display for Blows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leaders, longest } = self;
        write!(f, "{leaders} leaders killed, another led after {:.1} s at most", longest.as_secs_f64())
    }
}

/// Kills whichever controller leads, at once and then every minute, until it is finished or dropped.
pub struct Killer<'scope> {
    blows: Arc<Mutex<Blows>>,
    stop: Sender<()>,
    thread: ScopedJoinHandle<'scope, Result<()>>,
}

impl<'scope> Killer<'scope> {
    /// Begins.
    pub fn start<'env>(scope: &'scope Scope<'scope, 'env>, lab: &'env Lab) -> Self {
        let blows = Arc::<Mutex<Blows>>::default();
        let (stop, stopped) = mpsc::channel();
        let counted = Arc::clone(&blows);
        let thread = scope.spawn(move || {
            let cluster = Cluster::new(lab)?;
            loop {
                let next = Instant::now() + BEAT;
                let took = strike(&cluster)?;
                let mut blows = counted.lock().unwrap_or_else(PoisonError::into_inner);
                *blows = Blows { leaders: blows.leaders + 1, longest: blows.longest.max(took) };
                drop(blows);
                match stopped.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
        });
        Self { blows, stop, thread }
    }

    /// What was struck by now.
    #[must_use]
    pub fn blows(&self) -> Blows {
        *self.blows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops after the blow that is under way.
    ///
    /// # Errors
    /// If nobody took over from one that was killed.
    pub fn finish(self) -> Result<Blows> {
        let Self { blows, stop, thread } = self;
        drop(stop);
        thread.join().map_err(|_| anyhow!("who kills the leaders panicked"))??;
        let blows = *blows.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(blows.leaders > 0, "no leader was killed");
        Ok(blows)
    }
}

/// Kills the controller that leads, and answers how long it was until another did.
fn strike(cluster: &Cluster) -> Result<Duration> {
    let killed = |leader: Leader| leader.kill().map(|()| leader);
    let leader = wait_for("a leader to kill", FOUND, || Ok(Leader::of(cluster).and_then(killed).map_err(|error| format!("{error:#}"))))?;
    let begun = Instant::now();
    wait_for("another controller to lead", TAKEN_OVER, || {
        Ok(if leader.is_followed(cluster) { Ok(()) } else { Err("the dead one's lease has not ended".to_owned()) })
    })?;
    Ok(begun.elapsed())
}
