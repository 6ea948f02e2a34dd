//! The floor of ADD and DEL: the fewest netlink messages that wire a pod, sent by a bare loop, and the deletion of its link.
//! Prints one JSON object a line: `name`, `value`, `unit`. Run as root; it works in namespaces of its own.

#![allow(clippy::print_stdout, missing_docs, reason = "a measuring program: its output is its result")]

use std::{
    error::Error,
    fs::File,
    net::Ipv4Addr,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use azure_vnet_plugin::netlink::{Address, Change, LinkBy, Netlink, Peer, Reply, Request, Route, Veth};
use azure_vnet_plugin_core::wiring::{GATEWAY, HOST_MAC, Mac};
use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, setns, unshare};

const ROUNDS: u32 = 200;
const POD_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

fn main() -> Result<(), Box<dyn Error>> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let own = File::open("/proc/thread-self/ns/net")?;
    let mut host = Netlink::open()?;
    let (mut add, mut delete) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let netns = File::open("/proc/thread-self/ns/net")?;
        let mut pod = Netlink::open()?;
        setns(&own, CloneFlags::CLONE_NEWNET)?;
        let started = Instant::now();
        let link = wire(&mut host, &mut pod, &netns, Ipv4Addr::from(0x0af0_0100 + round))?;
        add.push(started.elapsed());
        let started = Instant::now();
        host.change(Change::DeleteLink(link))?;
        delete.push(started.elapsed());
    }
    print("plugin/add/netlink-floor", &mut add);
    print("plugin/del/netlink-floor", &mut delete);
    Ok(())
}

fn wire(host: &mut Netlink, pod: &mut Netlink, netns: &File, address: Ipv4Addr) -> Result<u32, Box<dyn Error>> {
    let peer = Peer { name: "eth0", mac: POD_MAC, netns: netns.as_fd() };
    let veth = Veth { name: "azv0", mac: HOST_MAC, mtu: 1500, group: 0, peer };
    let replies = host.exchange(&[Request::Change(Change::CreateVeth(veth)), Request::Link(LinkBy::Name("azv0"))])?;
    let Some(Reply::Link(link)) = replies.into_iter().nth(1) else { return Err("no link".into()) };
    let there = link.peer.ok_or("no peer")?;
    let refused = host.changes([
        Change::Label { link: link.index, alias: "floor" },
        Change::AddRoute(Route::on_link(Ipv4Net::from(address), link.index)),
    ])?;
    let refused_there = pod.changes([
        Change::SetUp(there),
        Change::AddAddress(Address { link: there, address, prefix_len: 16 }),
        Change::AddRoute(Route::on_link(GATEWAY.into(), there)),
        Change::AddRoute(Route::default_via(GATEWAY, there)),
        Change::SetNeighbour { link: there, address: GATEWAY, mac: HOST_MAC },
    ])?;
    if refused.is_empty() && refused_there.is_empty() { Ok(link.index) } else { Err(format!("{refused:?} {refused_there:?}").into()) }
}

fn print(name: &str, samples: &mut [Duration]) {
    samples.sort();
    let median = samples.get(samples.len() / 2).copied().unwrap_or_default();
    println!("{{\"name\":\"{name}\",\"value\":{:.3},\"unit\":\"ms\"}}", median.as_secs_f64() * 1000.0);
}
