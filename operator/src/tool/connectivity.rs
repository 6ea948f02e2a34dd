//! `connectivity`: puts a probe on each node, or beside the containers of pods that are there, has each ask each, and takes everything back, however it
//! ends.

mod objects;
mod stage;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail, ensure};
use azure_vnet_operator_core::look::{self, Asked, Goal, Heard, Probe};
use clap::Args;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Access, Format, Shown, connect, exec::PROGRAM, observe, observe::Scope, tell};
use crate::{Shutdown, controller::random};
use objects::{Cast, LIFE_SECONDS};
use stage::Stage;

/// How often what was not reached is asked again: rules for a pod that has just started come a moment later.
const AGAIN: usize = 2;
/// Before that.
const PAUSE: Duration = Duration::from_secs(2);
/// For all questions: probes end by themselves a minute later.
const LIFE: Duration = Duration::from_secs(LIFE_SECONDS - 60);
/// Pods that are entered at a time.
const AT_ONCE: usize = 8;

/// Flags of `connectivity`.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// Put a probe on these nodes only; may be repeated.
    #[arg(long, value_name = "NODE", conflicts_with = "pods")]
    node: Vec<String>,
    /// Ask from running pods of this label selector in place of pods of its own: each gets an ephemeral container, which ends with the command and
    /// stays listed in the pod, as Kubernetes keeps them.
    #[arg(long, value_name = "SELECTOR")]
    pods: Option<String>,
    /// Where the probes are started, or the pods are; default: a namespace of its own, for --pods the context's.
    #[arg(long, short)]
    namespace: Option<String>,
    /// Also ask for a connection to this address or name; may be repeated.
    #[arg(long, value_name = "HOST:PORT", value_parser = place)]
    to: Vec<String>,
    /// Image of the probes; default: the one that the controller in kube-system runs.
    #[arg(long)]
    image: Option<String>,
    /// Secret with which the image is pulled, in the namespace that --namespace names; may be repeated. Pods that --pods chooses have their own.
    #[arg(long, value_name = "SECRET", requires = "namespace", conflicts_with = "pods")]
    image_pull_secret: Vec<String>,
    /// At most so many probes; the nodes are chosen evenly.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=250), value_name = "N")]
    at_most: u16,
    /// TCP port that the probes answer on.
    #[arg(long, default_value_t = 9480, value_parser = clap::value_parser!(u16).range(1024..))]
    port: u16,
    /// Seconds that the probes may take to start.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=300), value_name = "SECONDS")]
    timeout: u64,
    /// Seconds that an answer may take.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=30), value_name = "SECONDS")]
    answer_timeout: u64,
    /// How to show it.
    #[command(flatten)]
    shown: Shown,
}

fn place(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    port.map(|_| text.to_owned()).ok_or_else(|| format!("{text:?} is no HOST:PORT"))
}

/// Runs the command.
///
/// # Errors
/// Something is not reached, or could not be asked, or taken back.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let Shown { output, access } = flags.shown.clone();
    let mut tasks = JoinSet::new();
    let shutdown = Shutdown::on_signals(&mut tasks).context("cannot follow signals")?;
    let mut stage = tokio::select! {
        biased;
        () = shutdown.wait() => bail!("broken off"),
        stage = set(&flags, &access) => stage?,
    };
    let ended = {
        let all = async {
            let played = play(&flags, &mut stage, &shutdown).await;
            tell("taking everything back");
            (played, stage.clear().await)
        };
        tokio::select! {
            biased;
            insisted = insisted(&shutdown) => insisted.map(|()| None)?,
            ended = all => Some(ended),
        }
    };
    tasks.shutdown().await;
    let Some((played, cleared)) = ended else { bail!("broken off before everything was taken back: {}", stage.left()) };
    finish(output, played, cleared)
}

/// Returns when the process is asked to end for the second time.
async fn insisted(asked: &Shutdown) -> anyhow::Result<()> {
    asked.wait().await;
    let mut tasks = JoinSet::new();
    Shutdown::on_signals(&mut tasks).context("cannot follow signals")?.wait().await;
    Ok(())
}

fn finish(output: Format, played: anyhow::Result<look::Connectivity>, cleared: anyhow::Result<()>) -> anyhow::Result<()> {
    let found = match (played, &cleared) {
        (Ok(found), _) => found,
        (Err(error), Ok(())) => return Err(error),
        (Err(error), Err(left)) => bail!("{error:#}; and {left:#}"),
    };
    output.print(&found)?;
    cleared?;
    ensure!(found.passed(), "not everything is reached: see what is marked ✗");
    Ok(())
}

/// Says who plays; nothing is made yet.
async fn set(flags: &Flags, access: &Access) -> anyhow::Result<Stage> {
    let (client, own) = connect(access).await?;
    let cluster = observe::cluster(&client, &Scope::parts()).await?;
    let image = match &flags.image {
        Some(image) => image.clone(),
        None => observe::controller_image(&client).await?.context("no controller runs in namespace kube-system: give --image")?,
    };
    let run: String = random::token().chars().take(8).collect();
    let namespace = match (&flags.namespace, &flags.pods) {
        (Some(namespace), _) => namespace.clone(),
        (None, Some(_)) => own,
        (None, None) => format!("avn-connectivity-{run}"),
    };
    let cast = Cast { run, namespace, image, port: flags.port, pull_secrets: flags.image_pull_secret.clone() };
    let at_most = usize::from(flags.at_most);
    if let Some(selector) = &flags.pods {
        return Stage::of_pods(client, cluster, cast, selector, at_most).await;
    }
    let chosen = look::choose_nodes(&cluster, &flags.node, at_most).map_err(anyhow::Error::msg)?;
    Ok(Stage::of_nodes(client, cluster, cast, chosen, flags.namespace.is_none()))
}

/// Until the end, or until it is broken off.
async fn play(flags: &Flags, stage: &mut Stage, shutdown: &Shutdown) -> anyhow::Result<look::Connectivity> {
    stage.start(shutdown).await?;
    let patience = Duration::from_secs(flags.timeout);
    tokio::select! {
        biased;
        () = shutdown.wait() => bail!("broken off"),
        found = timeout(LIFE, ask(flags, stage, patience)) => {
            found.with_context(|| format!("not everything was asked in {} minutes: ask with fewer probes (--at-most)", LIFE.as_secs() / 60))?
        }
    }
}

async fn ask(flags: &Flags, stage: &mut Stage, patience: Duration) -> anyhow::Result<look::Connectivity> {
    tell(&format!("{} probes in namespace {}", stage.len(), stage.cast.namespace));
    let probes = stage.wait(patience).await?;
    let places = places(flags, stage).await?;
    let mut asked: Vec<Asked> = vec![];
    let mut absent = BTreeMap::new();
    let mut open = questions(&probes, &places, flags.port);
    for round in 0..=AGAIN {
        let (heard, lost) = put(flags, stage, &open).await;
        absent.extend(lost);
        asked.retain(|old| !open.iter().any(|(from, list)| *from == old.from && list.iter().any(|(to, _)| *to == old.to)));
        asked.extend(heard);
        open = unheard(&asked);
        if open.is_empty() || round == AGAIN {
            break;
        }
        sleep(PAUSE).await;
    }
    let probes = probes.into_iter().map(|probe| {
        let why = absent.remove(&probe.pod);
        Probe { absent: probe.absent.or(why), ..probe }
    });
    Ok(look::connectivity(&stage.cluster, probes.collect(), asked, stage.notes.clone()))
}

/// What each asks: the goal, and the word for the probe.
type Questions = BTreeMap<String, Vec<(Goal, String)>>;

fn questions(probes: &[Probe], places: &[(Goal, String)], port: u16) -> Questions {
    let there: Vec<(&Probe, std::net::Ipv4Addr)> =
        probes.iter().filter(|probe| probe.absent.is_none()).filter_map(|probe| Some((probe, probe.address?))).collect();
    let of = |from: &Probe| {
        let others = there.iter().filter(|(to, _)| to.pod != from.pod);
        let pods = others.map(|(to, address)| (Goal::Pod(to.pod.clone()), format!("probe={address}:{port}")));
        pods.chain(places.iter().cloned()).collect()
    };
    there.iter().map(|(from, _)| (from.pod.clone(), of(from))).collect()
}

fn unheard(asked: &[Asked]) -> Questions {
    let mut open = Questions::new();
    for asked in asked.iter().filter(|asked| matches!(asked.heard, Heard::Nothing { .. })) {
        open.entry(asked.from.clone()).or_default().push((asked.to.clone(), asked.target.clone()));
    }
    open
}

/// What is asked for beside pods, as far as the cluster has it.
async fn places(flags: &Flags, stage: &mut Stage) -> anyhow::Result<Vec<(Goal, String)>> {
    let mut places = vec![];
    if let Some(address) = stage.service().await? {
        places.push((Goal::Service, format!("probe={address}:{}", flags.port)));
    }
    match known(&stage.client, "default", "kubernetes").await? {
        Some((address, port)) => places.push((Goal::ApiServer, format!("tcp={address}:{port}"))),
        None => stage.notes.push("the API server was not asked for: there is no Service default/kubernetes".into()),
    }
    match known(&stage.client, "kube-system", "kube-dns").await? {
        Some(_) => places.push((Goal::Dns, "dns=kubernetes.default".into())),
        None => stage.notes.push("DNS was not asked: there is no Service kube-system/kube-dns".into()),
    }
    places.extend(flags.to.iter().map(|to| (Goal::Place(to.clone()), format!("tcp={to}"))));
    Ok(places)
}

async fn known(client: &Client, namespace: &str, name: &str) -> anyhow::Result<Option<(String, i32)>> {
    let found = Api::<Service>::namespaced(client.clone(), namespace).get_opt(name).await;
    let found = found.with_context(|| format!("cannot read the Service {namespace}/{name}"))?;
    let spec = found.and_then(|service| service.spec);
    Ok(spec.and_then(|spec| Some((spec.cluster_ip?, spec.ports?.first()?.port))))
}

/// Enters the pods and puts the questions; what was heard, and which pods could not be entered.
async fn put(flags: &Flags, stage: &Stage, open: &Questions) -> (Vec<Asked>, Vec<(String, String)>) {
    let entered = stream::iter(open).map(async |(from, list)| (from, list, ask_from(flags, stage, from, list).await));
    let results: Vec<_> = entered.buffer_unordered(AT_ONCE).collect().await;
    let (mut asked, mut absent) = (vec![], vec![]);
    for (from, list, heard) in results {
        match heard {
            Ok(heard) => asked.extend(list.iter().zip(heard).map(|((to, target), heard)| Asked {
                from: from.clone(),
                to: to.clone(),
                target: target.clone(),
                heard,
            })),
            Err(error) => absent.push((from.clone(), format!("it cannot be entered: {error:#}"))),
        }
    }
    (asked, absent)
}

async fn ask_from(flags: &Flags, stage: &Stage, from: &str, list: &[(Goal, String)]) -> anyhow::Result<Vec<Heard>> {
    let timeout = flags.answer_timeout.to_string();
    let mut command = vec![PROGRAM, "probe", "ask", "--timeout", &timeout];
    command.extend(list.iter().map(|(_, target)| target.as_str()));
    let text = stage.exec(from, &command, Duration::from_secs(flags.answer_timeout + 20)).await?;
    let heard = text.lines().filter(|line| !line.is_empty()).map(serde_json::from_str);
    let heard = heard.collect::<Result<Vec<Heard>, _>>().with_context(|| format!("the probe answers {text:?}"))?;
    ensure!(heard.len() == list.len(), "the probe was asked {} things and answers {}", list.len(), heard.len());
    Ok(heard)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(pod: &str, last: u8) -> Probe {
        Probe { pod: pod.into(), node: "n".into(), address: Some(std::net::Ipv4Addr::new(10, 0, 0, last)), absent: None }
    }

    #[test]
    fn everybody_that_is_there_asks_everybody_else_and_the_places() {
        let gone = Probe { address: None, absent: Some("no address".into()), ..probe("x/c", 3) };
        let probes = [probe("x/a", 1), probe("x/b", 2), gone];
        let asked = questions(&probes, &[(Goal::Dns, "dns=kubernetes.default".into())], 9480);
        let of_a = [(Goal::Pod("x/b".into()), "probe=10.0.0.2:9480".into()), (Goal::Dns, "dns=kubernetes.default".into())];
        assert_eq!(asked["x/a"], of_a);
        assert_eq!(asked.keys().collect::<Vec<_>>(), ["x/a", "x/b"]);
        for (_, word) in asked.values().flatten() {
            word.parse::<crate::probe::Target>().unwrap();
        }
    }

    #[test]
    fn only_what_was_not_reached_is_asked_again() {
        let asked = |to: &str, heard| Asked { from: "x/a".into(), to: Goal::Pod(to.into()), target: format!("probe={to}"), heard };
        let list = [asked("x/b", Heard::Something { micros: 1 }), asked("x/c", Heard::Nothing { why: "timed out".into() })];
        assert_eq!(unheard(&list), Questions::from([("x/a".into(), vec![(Goal::Pod("x/c".into()), "probe=x/c".into())])]));
    }

    #[test]
    fn a_place_has_a_host_and_a_port() {
        assert!(place("example.com:443").is_ok() && place("10.0.0.4:22").is_ok());
        for wrong in ["example.com", ":443", "a:b", "a:70000"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
