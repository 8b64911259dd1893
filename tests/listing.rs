//! A listing is one consistent revision, page by page or as a stream, on every node and while everything
//! changes; a node's memory does not grow with what it streams.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{eventually, Client, Cluster, Plan, Request};

const BATCH_PAIRS: usize = 128;
const KEYS: usize = 100_000;
const WRITERS: usize = 3;
const PAGE_LIMIT: Duration = Duration::from_secs(60);

/// What became of the keys of one write.
struct Event {
    revision: u64,
    changes: Vec<(String, Option<String>)>,
}

fn revision_of(answer: &support::Response, what: &str) -> u64 {
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    answer.json()["revision"].as_u64().unwrap()
}

/// One atomic write of all pairs.
fn set(client: &mut Client, pairs: Vec<(String, String)>) -> Event {
    let json: serde_json::Map<String, Value> =
        pairs.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
    let request = Request::post("/key?timeout=30s", Value::Object(json).to_string()).limit(PAGE_LIMIT);
    let revision = revision_of(&client.send(&request).unwrap(), "POST /key");
    Event { revision, changes: pairs.into_iter().map(|(key, value)| (key, Some(value))).collect() }
}

fn delete(client: &mut Client, key: String) -> Event {
    let request = Request::delete(format!("/v1/kv/{key}?timeout=30s")).limit(PAGE_LIMIT);
    let revision = revision_of(&client.send(&request).unwrap(), "DELETE");
    Event { revision, changes: vec![(key, None)] }
}

/// Sets `count` keys, several clients at once.
fn prefill(port: u16, count: usize, pair: impl Fn(usize) -> (String, String) + Sync) -> Vec<Event> {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let fill = || {
            let (mut client, mut events) = (Client::new(port), Vec::new());
            loop {
                let begin = next.fetch_add(BATCH_PAIRS, Ordering::Relaxed);
                if begin >= count {
                    return events;
                }
                let pairs = (begin..count.min(begin + BATCH_PAIRS)).map(&pair).collect();
                events.push(set(&mut client, pairs));
            }
        };
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(fill)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

/// Changes pairs of keys, deletes keys and inserts others, until told to stop.
fn change(port: u16, writer: usize, inserted: &AtomicUsize, stop: &AtomicBool) -> Vec<Event> {
    let (mut client, mut events) = (Client::new(port), Vec::new());
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // Far apart in the order of a listing, so that a page of another moment would show.
        let index = (round * 7_919 * WRITERS + writer) % (KEYS / 2);
        let (low, high) = (format!("key/{index:06}"), format!("key/{:06}", index + KEYS / 2));
        events.push(match round % 4 {
            0 | 1 => {
                let value = format!("{writer}-{round}");
                set(&mut client, vec![(low, value.clone()), (high, value)])
            }
            2 => delete(&mut client, if index % 2 == 0 { low } else { high }),
            _ => {
                let new = set(&mut client, vec![(format!("key/{index:06}/{writer}-{round}"), "new".into())]);
                inserted.fetch_add(1, Ordering::Relaxed);
                new
            }
        });
    }
    events
}

type State = BTreeMap<String, (String, u64)>;

/// What the store holds at a revision.
fn state_at(events: &mut [Event], revision: u64) -> State {
    events.sort_by_key(|event| event.revision);
    let mut state = State::new();
    for event in events.iter().take_while(|event| event.revision <= revision) {
        for (key, value) in &event.changes {
            match value {
                Some(value) => state.insert(key.clone(), (value.clone(), event.revision)),
                None => state.remove(key),
            };
        }
    }
    state
}

fn item(item: &Value) -> (String, (String, u64)) {
    let text = |name: &str| item[name].as_str().unwrap_or_else(|| panic!("{name} of {item}")).to_owned();
    (text("key"), (text("value"), item["revision"].as_u64().unwrap()))
}

/// A whole listing.
struct Listed {
    node: usize,
    revision: u64,
    /// The store had at least this before it began, and this when it ended.
    before: u64,
    after: u64,
    pages: usize,
    items: Vec<(String, (String, u64))>,
}

fn list(cluster: &Cluster, node: usize, query: &str) -> Listed {
    let get = |query: &str| {
        let answer = cluster.ask(node, &Request::get(format!("/v1/kv?{query}")).limit(PAGE_LIMIT));
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        answer
    };
    let revision_on_leader = || {
        let answer = cluster.get(node, "key/000000", "");
        answer.header("vault-revision").unwrap().parse::<u64>().unwrap()
    };
    let before = revision_on_leader();
    let (mut items, mut pages, mut cursor) = (Vec::new(), 0, None::<String>);
    let mut revision = None;
    loop {
        let query = match &cursor {
            None => format!("{query}&limit=6000&timeout=30s"),
            Some(cursor) => format!("cursor={cursor}&limit=6000&timeout=30s"),
        };
        let answer = get(&query);
        if pages == 5 {
            assert!(answer.body == get(&query).body, "the same page again");
        }
        let page = answer.json();
        let own = page["revision"].as_u64().unwrap();
        assert_eq!(*revision.get_or_insert(own), own);
        assert_eq!(answer.header("vault-revision"), Some(own.to_string().as_str()));
        assert_eq!(answer.header("vault-consistency"), Some("linearizable"));
        items.extend(page["items"].as_array().unwrap().iter().map(item));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    Listed { node, revision: revision.unwrap(), before, after: revision_on_leader(), pages, items }
}

/// A hundred thousand keys in pages, on a follower and on the leader, while clients change, delete and insert
/// keys all the time: exactly what all writes up to one revision leave behind, which is not older than what
/// was acknowledged before.
#[test]
fn a_listing_is_one_revision() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let mut events = prefill(cluster.port(leader), KEYS, |i| (format!("key/{i:06}"), format!("first-{i}")));
    let (inserted, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut listed = Vec::new();
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (port, inserted, stop) = (cluster.port(writer), &inserted, &stop);
                scope.spawn(move || change(port, writer, inserted, stop))
            })
            .collect();
        eventually("keys are inserted", PAGE_LIMIT, || match inserted.load(Ordering::Relaxed) {
            0..WRITERS => Err("too few".into()),
            _ => Ok(()),
        });
        for (node, query) in
            [(follower, "prefix=key/"), (leader, "prefix=key/"), (follower, "start=key/&reverse=true")]
        {
            listed.push(list(&cluster, node, query));
        }
        let mut stream = Stream::begin(cluster.port(follower), "/v1/kv?prefix=key/");
        let revision = stream.revision;
        let items: Vec<_> = stream.by_ref().map(|line| item(&line)).collect();
        assert!(stream.is_whole, "cut off after {} items", items.len());
        let after =
            cluster.get(follower, "key/000000", "").header("vault-revision").unwrap().parse().unwrap();
        listed.push(Listed { node: follower, revision, before: 0, after, pages: 0, items });
        stop.store(true, Ordering::Relaxed);
        events.extend(writers.into_iter().flat_map(|writer| writer.join().unwrap()));
    });
    for mut listing in listed {
        let Listed { node, revision, before, after, pages, .. } = listing;
        let count = listing.items.len();
        println!("node{node}: {count} items in {pages} pages at {revision}; {before} before, {after} after");
        assert!(revision >= before && after > revision, "{before} <= {revision} < {after}");
        assert!(listing.items.iter().all(|(_, (_, own))| *own <= revision));
        if listing.items[0].0 > listing.items[1].0 {
            listing.items.reverse();
        }
        assert!(listing.items.windows(2).all(|two| two[0].0 < two[1].0), "in order");
        let expected: Vec<_> = state_at(&mut events, revision).into_iter().collect();
        assert!(expected.iter().any(|(_, (value, _))| value == "new"), "nothing was inserted before");
        let differs = expected.iter().zip(&listing.items).find(|(want, got)| want != got);
        assert!(differs.is_none(), "node{node}: {differs:?}");
        assert_eq!(expected.len(), count);
    }
}

/// A cursor is good on the node that gave it, as long as that runs. A node stops cleanly while it holds
/// listings, and takes streams with it.
#[test]
fn cursors_belong_to_one_process() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let other = (leader + 1) % 3;
    prefill(cluster.port(leader), 40_000, |i| (format!("key/{i:06}"), "v".repeat(500)));
    let begin = |cluster: &Cluster| {
        let answer = cluster.ask(other, &Request::get("/v1/kv?limit=10"));
        format!("/v1/kv?cursor={}", answer.json()["next"].as_str().unwrap())
    };
    let go_on = |cluster: &Cluster, node: usize, target: &str| {
        let answer = cluster.ask(node, &Request::get(target));
        (answer.status, answer.code())
    };
    let gone = (410, "cursor_expired".to_owned());
    let target = begin(&cluster);
    assert_eq!(go_on(&cluster, other, &target).0, 200);
    assert_eq!(go_on(&cluster, leader, &target), gone);
    assert_eq!(go_on(&cluster, other, &target).0, 200);
    let mut stream = Stream::begin(cluster.port(other), "/v1/kv");
    assert!(stream.next().is_some());

    let stopped = cluster.terminate(other);
    assert_eq!(stopped.code, Some(0), "after {:?}", stopped.took);
    let rest = stream.by_ref().count();
    assert!(!stream.is_whole, "{rest} items after the stop");
    cluster.restart(other);
    cluster.wait_formed();
    assert_eq!(go_on(&cluster, other, &target), gone);
    let target = begin(&cluster);
    assert_eq!(go_on(&cluster, other, &target).0, 200);
    cluster.kill9(other);
    cluster.restart(other);
    cluster.wait_formed();
    assert_eq!(go_on(&cluster, other, &target), gone);
}

/// A debug build takes too long to fill a million keys.
const STREAMED_KEYS: usize = if cfg!(debug_assertions) { 300_000 } else { 1_000_000 };
const STREAMED_VALUE_BYTES: usize = 100;
/// Items between two samples.
const SAMPLE_ITEMS: usize = 5_000;
/// What streaming everything may add, of the 40 or 130 MB that go by.
const GROWTH_BYTES_MAX: u64 = 12 << 20;

fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Everything is streamed, in order and whole, to a reader that dawdles, and the node's memory stays flat.
#[test]
fn streams_take_constant_memory() {
    // Small caches: what is left to grow is what the stream holds.
    let env = vec![
        ("VAULTDB_CACHE_BYTES", "1MiB".into()),
        ("VAULTDB_BLOCK_CACHE_BYTES", "4MiB".into()),
        ("VAULTDB_WRITE_BUFFER_BYTES", "4MiB".into()),
        ("VAULTDB_WAL_CACHE_BYTES", "1MiB".into()),
    ];
    let cluster = Cluster::start_plan(&Plan { env, ..Plan::nodes(1) });
    let begun = Instant::now();
    let value = "v".repeat(STREAMED_VALUE_BYTES);
    prefill(cluster.port(0), STREAMED_KEYS, |i| (format!("key/{i:08}"), value.clone()));
    println!("{STREAMED_KEYS} keys set in {:?}", begun.elapsed());
    let pid = cluster.nodes[0].pid().unwrap();
    // What only the first page costs, such as the thread of its view.
    assert!(Stream::begin(cluster.port(0), "/v1/kv?limit=10000").count() == 10_000);
    let begun = Instant::now();
    let mut stream = Stream::begin(cluster.port(0), "/v1/kv");
    let (mut count, mut samples) = (0, vec![resident_bytes(pid)]);
    for line in stream.by_ref() {
        if count % SAMPLE_ITEMS == 0 {
            assert_eq!(item(&line).0, format!("key/{count:08}"));
            samples.push(resident_bytes(pid));
            // The reader's own pace, not a wait for anything.
            thread::sleep(Duration::from_millis(10));
        }
        count += 1;
    }
    assert!(stream.is_whole);
    assert_eq!(count, STREAMED_KEYS);
    let (first, most) = (samples[0], *samples.iter().max().unwrap());
    println!(
        "{count} items in {:?}; resident {} KiB at first, {} KiB at most, {} KiB at last, {} samples",
        begun.elapsed(),
        first >> 10,
        most >> 10,
        samples.last().unwrap() >> 10,
        samples.len(),
    );
    assert!(most - first < GROWTH_BYTES_MAX, "grew by {} bytes", most - first);
}

/// The lines of a streamed listing, read as they come.
struct Stream {
    reader: BufReader<TcpStream>,
    /// What is left of the current chunk.
    left: usize,
    revision: u64,
    /// Whether the end of the answer was seen.
    is_whole: bool,
}

impl Stream {
    fn begin(port: u16, target: &str) -> Self {
        let mut tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
        tcp.set_read_timeout(Some(PAGE_LIMIT)).unwrap();
        let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n");
        tcp.write_all(head.as_bytes()).unwrap();
        let mut stream = Self { reader: BufReader::new(tcp), left: 0, revision: 0, is_whole: false };
        assert_eq!(stream.head_line().unwrap(), "HTTP/1.1 200 OK");
        loop {
            let line = stream.head_line().unwrap().to_lowercase();
            match line.split_once(": ") {
                Some(("vault-revision", revision)) => stream.revision = revision.parse().unwrap(),
                Some(("content-type", media)) => assert_eq!(media, "application/x-ndjson"),
                Some(_) => {}
                None => break,
            }
        }
        assert!(stream.revision > 0);
        stream
    }

    fn head_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Reads one line, which may be spread over chunks; `None` at the end.
    fn read_item(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        loop {
            if self.left == 0 {
                let size = self.head_line()?;
                self.left = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
                if self.left == 0 {
                    self.is_whole = self.head_line()?.is_empty();
                    return Ok(None);
                }
            }
            let read = (&mut self.reader).take(self.left as u64).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.left -= read;
            if self.left == 0 {
                self.head_line()?;
            }
            if line.ends_with(b"\n") {
                return Ok(Some(line));
            }
        }
    }
}

/// Ends where the answer ends or is cut off.
impl Iterator for Stream {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        let line = self.read_item().ok().flatten()?;
        Some(serde_json::from_slice(&line).unwrap())
    }
}
