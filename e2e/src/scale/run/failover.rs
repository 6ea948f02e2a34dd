//! Leaders that die, or lose the API server, while nodes of the fleet ask for more.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Fleet, IDLE, MOST};
use crate::{
    bench::Figure,
    build::progress,
    scale::{
        measure::{percentile, seconds, writes},
        place::Place,
    },
};

/// What strikes a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    /// Its process is killed.
    Kill,
    /// It does not reach the API server any more until another leads; Azure it does.
    Cut,
}

impl Blow {
    fn text(self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::Cut => "cut off",
        }
    }
}

impl Fleet {
    /// The leader is struck while nodes ask for more: by turns before it has written, and while Azure works on what it wrote.
    pub(super) async fn fail_over(&mut self, operator: &Path, times: u32) -> Result<()> {
        progress("fail-over");
        let mut seen: BTreeMap<Blow, Vec<(Duration, Duration)>> = BTreeMap::new();
        for round in 0..times {
            let blow = if round % 3 == 2 { Blow::Cut } else { Blow::Kill };
            let times = self.one_fail_over(round, blow).await.with_context(|| format!("fail-over {round}, {}", blow.text()))?;
            seen.entry(blow).or_default().push(times);
            self.judge()?;
            if blow == Blow::Kill {
                let port = 9500 + u16::try_from(round)?;
                self.place.start_controller(operator, &format!("after-{round}"), port)?;
            }
        }
        for (blow, times) in seen {
            let (mut led, mut served): (Vec<Duration>, Vec<Duration>) = times.into_iter().unzip();
            led.sort();
            served.sort();
            for (what, times) in [("another leader", led), ("the addresses", served)] {
                for percent in [50, 100] {
                    let name = format!("{} fail-overs, {}: until {what}, {percent} of 100", times.len(), blow.text());
                    self.figures.push(Figure::plain(name, seconds(percentile(&times, percent)), "s"));
                }
            }
        }
        Ok(())
    }

    async fn one_fail_over(&mut self, round: u32, blow: Blow) -> Result<(Duration, Duration)> {
        let (leader, _) = self.await_leader().await?;
        let wanted = self.who_may_grow()?;
        let before = writes(&self.place)?.len();
        if round.is_multiple_of(2) {
            self.grow(&wanted)?;
            self.until("the leader's write", async |fleet| Ok(writes(&fleet.place)?.len() > before)).await?;
        }
        match blow {
            Blow::Kill => self.place.kill(&leader)?,
            Blow::Cut => self.place.cut(&leader)?,
        }
        let begun = Instant::now();
        self.grow(&wanted)?;
        self.until("another leader", async |fleet| Ok(fleet.place.leader().await.is_ok_and(|(name, _)| name != leader))).await?;
        let led = begun.elapsed();
        let sent = match blow {
            Blow::Kill => None,
            Blow::Cut => Some(self.place.sent(&leader).await?),
        };
        if sent.is_some() {
            Place::heal()?;
        }
        self.until("what was asked for", async |fleet| {
            let pools = fleet.agents.pools();
            Ok(wanted.iter().all(|(name, addresses)| pools.get(name).is_some_and(|pool| pool.addresses.len() >= *addresses)))
        })
        .await?;
        let served = begun.elapsed();
        if let Some(sent) = sent {
            let now = self.place.sent(&leader).await?;
            ensure!(now == sent, "{leader} was cut off, and wrote {} times after another led", now - sent);
        }
        Ok((led, served))
    }

    /// The two smallest nodes, and how many addresses each is to grow to.
    fn who_may_grow(&self) -> Result<Vec<(String, usize)>> {
        let pools = self.agents.pools().into_iter();
        let mut wanted: Vec<(String, usize)> =
            pools.map(|(name, pool)| (name, pool.addresses.len() + IDLE)).filter(|(_, addresses)| *addresses <= MOST).collect();
        wanted.sort_by_key(|(_, addresses)| *addresses);
        wanted.truncate(2);
        ensure!(!wanted.is_empty(), "no node has room to grow: fewer fail-overs, or more nodes");
        Ok(wanted)
    }

    /// Their pods need so many.
    fn grow(&self, wanted: &[(String, usize)]) -> Result<()> {
        for (name, addresses) in wanted {
            self.agents.demand(name, u16::try_from(addresses - IDLE)?);
        }
        Ok(())
    }
}
