//! The status page in a real browser: what it loads, how it is walked through with the keyboard, and how it looks by day and by night.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what it expected by failing there")]

mod driver;

use std::net::SocketAddr;

use axum::{Router, extract::Path, routing::get};
use azure_vnet_crds::{AzureVnetConfig, AzureVnetNode};
use azure_vnet_e2e::build::require_browser;
use azure_vnet_operator::page::{self, HEADERS, Look};
use azure_vnet_operator_core::look::{Cluster, Machine};
use driver::Browser;
use serde_json::{Value, json};

fn look() -> Look {
    let config = json!({"apiVersion": "azure-vnet.dev/v1alpha1", "kind": "AzureVnetConfig", "metadata": {"name": "default"}, "spec": {}});
    let pool = |number: u8| -> AzureVnetNode {
        let ready =
            json!({"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        serde_json::from_value(json!({
            "apiVersion": "azure-vnet.dev/v1alpha1", "kind": "AzureVnetNode", "metadata": {"name": format!("n{number}")},
            "spec": {
                "config": {"name": "default"}, "effective": {"pool": {"max": 30}}, "addresses": ["1/10.240.0.10"],
                "node": {"subnetID": "/s/subnets/pods", "subnetPrefix": "10.240.0.0/24"},
            },
            "status": {"cloud": {"attached": 8, "target": 8}, "agent": {"counts": {"assigned": number, "free": 8 - number}}, "conditions": [ready]},
        }))
        .unwrap()
    };
    let machine = |number: u8| Machine { name: format!("n{number}"), os: "linux".into(), ..Machine::default() };
    let cluster = Cluster {
        configs: vec![serde_json::from_value::<AzureVnetConfig>(config).unwrap()],
        pools: (1..=3).map(pool).collect(),
        machines: (1..=3).map(machine).collect(),
        ..Cluster::default()
    };
    Look { cluster, ..Look::default() }
}

/// The pages on a port of this machine, with the headers that the controller gives them.
async fn serve() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let overview = get(async || (HEADERS, page::overview(&look())));
    let node = get(async |Path(name): Path<String>| (HEADERS, page::node(&look(), &name).unwrap()));
    let router = Router::new().route("/", overview).route("/nodes/{name}", node);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Every text's colour against the ground that it stands on, by the rule of the Web Content Accessibility Guidelines (success criterion 1.4.3).
const CONTRASTS: &str = r"
const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
const read = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (element) => { for (let at = element; at; at = at.parentElement) { const c = read(getComputedStyle(at).backgroundColor); if (c[3] > 0) return c; } return [255, 255, 255, 255]; };
const said = [...document.querySelectorAll('body *')].filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && !e.closest('svg') && !e.matches('.hidden'));
return said.map((e) => { const [a, b] = [light(read(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x); return [(a + 0.05) / (b + 0.05), e.textContent.trim().slice(0, 40)]; });
";

#[tokio::test]
async fn the_status_page_loads_nothing_else_is_walked_by_keyboard_and_is_readable_by_day_and_night() {
    require_browser().unwrap();
    let address = serve().await;
    let browser = Browser::start().await;
    browser.open(&format!("http://{address}/")).await;

    let loaded = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)").await;
    let foreign: Vec<&Value> = loaded.as_array().unwrap().iter().filter(|name| !name.as_str().unwrap().ends_with("/favicon.ico")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    assert_eq!(browser.run("return document.scripts.length").await, json!(0));
    let complaints = browser.log().await;
    assert!(complaints.iter().all(|line| line.contains("favicon.ico")), "{complaints:?}");

    // Tab goes from link to link in the order of the page, each is named and seen, and Enter follows it.
    let focused = "const at = document.activeElement; return [at.tagName, at.getAttribute('aria-label') || at.textContent, getComputedStyle(at).outlineStyle]";
    let mut walked = vec![];
    for _ in 0..4 {
        browser.press("\u{E004}").await;
        walked.push(browser.run(focused).await);
    }
    let expected = ["read again", "n1: 1 of 8 used, ready", "n2: 2 of 8 used, ready", "n3: 3 of 8 used, ready"];
    assert_eq!(walked, expected.map(|name| json!(["A", name, "solid"])));
    browser.press("\u{E007}").await;
    assert_eq!(browser.run("return [location.pathname, document.title]").await, json!(["/nodes/n3", "n3 · azure-vnet"]));
    let slots = browser.run("return [...document.querySelectorAll('.slots li')].map((slot) => slot.textContent.trim())").await;
    assert_eq!((slots.as_array().unwrap().len(), &slots[0]), (30, &json!("avn-1 10.240.0.10 published")));

    let mut grounds = vec![];
    for scheme in ["light", "dark"] {
        browser.scheme(scheme).await;
        for path in ["/", "/nodes/n1"] {
            browser.open(&format!("http://{address}{path}")).await;
            let contrasts = browser.run(CONTRASTS).await;
            let weak: Vec<&Value> = contrasts.as_array().unwrap().iter().filter(|found| found[0].as_f64().unwrap() < 4.5).collect();
            assert!(contrasts.as_array().unwrap().len() > 10 && weak.is_empty(), "{scheme} {path}: {weak:?}");
        }
        grounds.push(browser.run("return getComputedStyle(document.body).backgroundColor").await);
    }
    assert_ne!(grounds[0], grounds[1], "by night the ground is dark");
}
