//! The dashboard in a real browser, served by real nodes that are killed, broken and come back.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{json, Value};
use support::browser::{self, Browser};
use support::{eventually, skip, Client, Cluster, Plan, Request};

const NODES: usize = 5;
/// What is shown when the page is never as expected.
const TEXT: &str = "document.body?.innerText.slice(0, 1500)";

/// Elements that a keyboard reaches, in their order on the page.
const REACHABLE: &str = "[...document.querySelectorAll('a[href], button, select, ol[tabindex=\"0\"]')]\
     .filter((e) => !e.disabled && e.offsetParent !== null || e.className === 'skip')";

/// What makes a page hard to use without sight, mouse or colours; empty when there is nothing.
const FLAWS: &str = r#"(() => {
  const flaws = [];
  const need = (ok, what) => ok || flaws.push(what);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const name = (e) => (e.getAttribute('aria-label') || (e.labels && e.labels[0] && e.labels[0].textContent) ||
    (e.getAttribute('aria-labelledby') || '').split(' ').map((id) => id && document.getElementById(id)?.textContent).join(' ') ||
    e.textContent || '').trim();
  for (const landmark of ['main', 'header', 'footer', 'nav', 'h1']) need(all(landmark).length === 1, `not one ${landmark}`);
  need(document.documentElement.lang, 'no language');
  need(document.title, 'no title');
  for (const e of all('button, a, select, [role=img], nav, section, ol[tabindex]')) need(name(e), `no name: ${e.outerHTML.slice(0, 80)}`);
  for (const e of all('section')) need(e.hasAttribute('aria-labelledby'), `no label: ${e.className}`);
  const ids = all('[id]').map((e) => e.id);
  need(new Set(ids).size === ids.length, 'an id twice');
  for (const e of all('[aria-labelledby], [aria-describedby]'))
    for (const id of `${e.getAttribute('aria-labelledby') || ''} ${e.getAttribute('aria-describedby') || ''}`.split(' '))
      need(!id || document.getElementById(id), `nothing is called ${id}`);
  let level = 0;
  for (const e of all('h1, h2, h3')) { const n = Number(e.tagName[1]); need(n <= level + 1, `${e.textContent}: skips a level`); level = n; }
  need(all('[aria-live=polite]').length === 1 && all('[aria-live=assertive]').length === 0, 'news are not polite');
  need(all('[tabindex]').every((e) => e.tabIndex <= 0), 'an order of its own');
  const rgb = (text) => (text.match(/[\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => { const f = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  for (const e of all('body *')) {
    const isText = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!isText || e.closest('svg, script, style, noscript, option, :disabled') || e.offsetParent === null) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    need(contrast >= 4.5, `contrast ${contrast.toFixed(2)}: ${e.className} ${e.textContent.slice(0, 30)}`);
  }
  return flaws;
})()"#;

fn browser() -> Option<Browser> {
    match browser::find() {
        Some(program) => Some(Browser::start(&program)),
        None => {
            skip("the dashboard in a browser", "no chromium on this machine");
            None
        }
    }
}

fn open(browser: &mut Browser, cluster: &Cluster, node: usize) -> String {
    let origin = format!("http://localhost:{}", cluster.port(node));
    browser.open(&format!("{origin}/"));
    let healthy = "document.querySelector('#verdict')?.textContent === 'All 5 nodes are healthy'";
    browser.wait("five healthy nodes are shown", healthy, TEXT);
    origin
}

fn card(i: usize) -> String {
    format!("document.querySelector('.node-card[data-key=node{i}]')")
}

fn wait_health(browser: &mut Browser, i: usize, health: &str) {
    let expression = format!("{}?.dataset.health === '{health}'", card(i));
    browser.wait(&format!("node{i} is shown as {health}"), &expression, TEXT);
}

/// Waits for a line of the timeline.
fn wait_event(browser: &mut Browser, what: &str, node: usize, component: &str) {
    let expression = format!(
        "[...document.querySelectorAll('#events [data-what={what}] .who')]\
         .some((who) => who.textContent === '{}')",
        format!("node{node} {component}").trim()
    );
    browser.wait(&format!("{what} of node{node} {component}"), &expression, TEXT);
}

/// A page from any node shows the five of them, one leader, who is down and since when, what was seen and done,
/// and says so when its own node goes away; it asks only its own node and runs without an error.
#[test]
fn shows_the_cluster() {
    let Some(mut browser) = browser() else { return };
    let plan = Plan { flags: vec!["--enable-fault-injection".into()], ..Plan::nodes(NODES) };
    let mut cluster = Cluster::start_plan(&plan);
    let leader = cluster.leader();
    let (own, other) = ((leader + 1) % NODES, (leader + 2) % NODES);
    let origin = open(&mut browser, &cluster, own);
    roles(&mut browser, leader);
    looks(&mut browser);
    keyboard(&mut browser);

    breaks(&mut browser, other);
    cluster.kill9(other);
    wait_health(&mut browser, other, "down");
    wait_event(&mut browser, "unreachable", other, "");
    let says = browser.eval(&format!("{}.querySelector('.says').textContent", card(other)));
    assert!(says.as_str().unwrap().contains("down for "), "{says}");
    let carries_on = "document.querySelector('#verdict-more').textContent.includes('4 of 5 nodes carry on')";
    browser.wait("the others carry on", carries_on, TEXT);
    flawless(&mut browser, "with a node down");
    cluster.restart(other);
    wait_health(&mut browser, other, "healthy");
    wait_event(&mut browser, "reachable", other, "");

    assert_eq!(browser.problems, Vec::<String>::new());
    let elsewhere: Vec<_> = browser
        .requested
        .iter()
        .filter(|url| !url.starts_with(&format!("{origin}/")) && !url.starts_with("data:"))
        .collect();
    assert_eq!(elsewhere, Vec::<&String>::new());
    comes_back(&mut browser, &mut cluster, own);
}

fn roles(browser: &mut Browser, leader: usize) {
    let count = |selector: &str| format!("document.querySelectorAll('{selector}').length");
    let leads = format!("{}.querySelector('.role').textContent === 'leader'", card(leader));
    browser.wait("the leader is shown as such", &leads, TEXT);
    let follow = format!("{} === {}", count(".node-card .role[data-role=follower]"), NODES - 1);
    browser.wait("the others follow", &follow, TEXT);
    for (selector, expected) in [
        (".node-card", NODES),
        (".node-card .role[data-role=leader]", 1),
        ("#picture .node", NODES),
        ("#picture .node[data-role=leader]", 1),
        ("#picture line", NODES - 1),
        ("#break button:not(:disabled)", 11),
    ] {
        assert_eq!(browser.eval(&count(selector)), expected, "{selector}");
    }
    let parts = browser.eval(&count(".node-card .parts > li"));
    assert!(parts.as_u64().unwrap() >= 6 * NODES as u64, "{parts} components");
}

/// Both colour schemes, on a screen and on a phone: nothing is wider than the window, and nothing is hard to use.
fn looks(browser: &mut Browser) {
    let mut grounds = BTreeSet::new();
    for scheme in ["light", "dark"] {
        browser.scheme(scheme);
        for (width, height) in [(1280, 900), (390, 844), (320, 600)] {
            browser.size(width, height);
            let wide = "document.documentElement.scrollWidth <= window.innerWidth && window.innerWidth";
            assert_eq!(browser.eval(wide), width, "{scheme}: wider than {width} pixels");
            flawless(browser, &format!("{scheme}, {width} pixels"));
        }
        grounds.insert(browser.eval("getComputedStyle(document.body).backgroundColor").to_string());
    }
    assert_eq!(grounds.len(), 2, "{grounds:?}");
    browser.size(1280, 900);
}

fn flawless(browser: &mut Browser, when: &str) {
    assert_eq!(browser.eval(FLAWS), json!([]), "{when}");
}

/// The keyboard reaches everything in the order of the page, at first a way past the head, and each shows that it
/// has the focus.
fn keyboard(browser: &mut Browser) {
    let expected = browser.eval(&format!("{REACHABLE}.length")).as_u64().unwrap();
    assert!(expected > 15, "{expected}");
    for place in 0..expected {
        browser.press_tab();
        let focus = browser.eval(&format!("{REACHABLE}.indexOf(document.activeElement)"));
        assert_eq!(focus, place, "{}", browser.eval("document.activeElement.outerHTML.slice(0, 200)"));
        let outline = browser.eval("getComputedStyle(document.activeElement).outlineStyle");
        assert_eq!(outline, "solid", "place {place}");
    }
}

/// A button breaks a part of another node, and the timeline tells what was done to it and what healed it.
fn breaks(browser: &mut Browser, target: usize) {
    browser.eval(&format!("document.querySelector('#target').value = 'node{target}'"));
    browser.eval("[...document.querySelectorAll('#faults button')].find((b) => b.textContent === 'Panic the store').click()");
    let done = format!(
        "document.querySelector('#result').textContent === '✓ Panic the store on node{target}: done.'"
    );
    browser.wait("the node takes the fault", &done, "document.querySelector('#result').textContent");
    for what in ["fault_injected", "panicked", "restarted"] {
        wait_event(browser, what, target, "store");
    }
    let told = format!("document.querySelector('#news').textContent.includes('node{target}, store')");
    browser.wait("a screen reader is told", &told, "document.querySelector('#news').textContent");
    wait_health(browser, target, "healthy");
}

/// The page says that its node is away, keeps what it had, and goes on by itself.
fn comes_back(browser: &mut Browser, cluster: &mut Cluster, own: usize) {
    cluster.kill9(own);
    let away =
        "!document.querySelector('#away').hidden && document.querySelector('#link').dataset.state === 'lost'";
    browser.wait("the page says that its node is away", away, TEXT);
    assert_eq!(browser.eval("document.querySelectorAll('.node-card').length"), NODES);
    flawless(browser, "without its node");
    cluster.restart(own);
    let back =
        "document.querySelector('#away').hidden && document.querySelector('#link').dataset.state === 'live'";
    browser.wait("the page is live again", back, TEXT);
}

/// The pictures of README.md, from a cluster under load: `make screenshots`.
#[test]
#[ignore = "writes files; make screenshots"]
fn screenshots() {
    let Some(mut browser) = browser() else { return };
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
    std::fs::create_dir_all(&images).unwrap();
    let save = |name: &str, png: Vec<u8>| {
        assert!(png.len() < 200_000, "{name}: {} bytes", png.len());
        std::fs::write(images.join(name), png).unwrap();
    };
    let mut cluster = Cluster::start(NODES);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for port in cluster.ports() {
            let stop = &stop;
            scope.spawn(move || load(port, stop));
        }
        let leader = cluster.leader();
        browser.scheme("light");
        browser.size(1200, 900);
        open(&mut browser, &cluster, (leader + 1) % NODES);
        wait_figures(&cluster, (leader + 1) % NODES, 150);
        save("dashboard-healthy.png", browser.screenshot(1200, PICTURE_HEIGHT));
        browser.scheme("dark");
        save("dashboard-dark.png", browser.screenshot(1200, PICTURE_HEIGHT));
        browser.scheme("light");
        cluster.kill9(leader);
        cluster.pause((leader + 2) % NODES);
        wait_health(&mut browser, leader, "down");
        wait_health(&mut browser, (leader + 2) % NODES, "down");
        let leads = "document.querySelectorAll('#picture .node[data-role=leader]').length === 1";
        browser.wait("the others elect", leads, TEXT);
        wait_figures(&cluster, (leader + 1) % NODES, 190);
        save("dashboard-degraded.png", browser.screenshot(1200, PICTURE_HEIGHT));
        browser.size(390, 844);
        browser.wait("the charts fit", "document.querySelector('#rate').viewBox.baseVal.width < 390", TEXT);
        save("dashboard-phone.png", browser.screenshot(390, 1100));
        cluster.resume((leader + 2) % NODES);
        stop.store(true, Ordering::Relaxed);
    });
}

/// Down to the first lines of the timeline.
const PICTURE_HEIGHT: u32 = 1100;

/// Waits until the node has told of so many seconds.
fn wait_figures(cluster: &Cluster, i: usize, seconds: usize) {
    eventually("the charts have something to show", Duration::from_secs(600), || {
        let observed: Value = cluster.ask(i, &Request::get("/v1/observation")).json();
        let known = observed["figures"].as_array().map_or(0, Vec::len);
        if known >= seconds {
            Ok(())
        } else {
            Err(format!("{known} of {seconds} seconds"))
        }
    });
}

/// One client of one node, with a pause after each request so that this machine is not the limit.
fn load(port: u16, stop: &AtomicBool) {
    let mut client = Client::new(port);
    let mut step: u64 = u64::from(port);
    while !stop.load(Ordering::Relaxed) {
        step += 1;
        let key = format!("/v1/kv/user{}", step * 7919 % 4000);
        let request = match step % 3 {
            0 => Request::get(key),
            _ => Request::put(key, "a value of some forty bytes, as users have"),
        };
        // Nodes are killed meanwhile.
        let _ = client.send(&request.limit(Duration::from_secs(2)));
        thread::sleep(Duration::from_millis(12 + (step / 40) % 5 * 5));
    }
}
