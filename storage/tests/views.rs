//! A view shows the store as it was, range by range and page by page, whatever is written meanwhile.
#![allow(clippy::unwrap_used)]

#[path = "common/store.rs"]
mod store;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use proptest::prelude::*;
use store::{at, mix, open, tiny, transfer};
use vaultdb_kv::{Command, EncodeItem, Key, ListQuery, Page, PageRequest, Revision};
use vaultdb_storage::{Op, StateMachine, View};

/// The test that counts threads runs alone.
static TURN: Mutex<()> = Mutex::new(());

type Item = (Vec<u8>, Option<Vec<u8>>, Revision);

/// Items as length-prefixed pieces, to be taken apart by [`decode`].
const ENCODE: EncodeItem = |item, out| {
    let value = item.value.map_or(u32::MAX, |value| value.len() as u32);
    out.extend_from_slice(&(item.key.len() as u32).to_le_bytes());
    out.extend_from_slice(&value.to_le_bytes());
    out.extend_from_slice(&item.revision.to_le_bytes());
    out.extend_from_slice(item.key);
    out.extend_from_slice(item.value.unwrap_or_default());
};

fn decode(page: &Page) -> Vec<Item> {
    let (mut rest, mut items) = (&page.body[..], Vec::new());
    let mut take = |count: usize| {
        let (piece, after) = rest.split_at(count);
        rest = after;
        (piece.to_vec(), rest.is_empty())
    };
    let mut is_end = page.body.is_empty();
    while !is_end {
        let key_bytes = u32::from_le_bytes(take(4).0.try_into().unwrap());
        let value_bytes = u32::from_le_bytes(take(4).0.try_into().unwrap());
        let revision = u64::from_le_bytes(take(8).0.try_into().unwrap());
        let key = take(key_bytes as usize);
        is_end = key.1;
        let value = (value_bytes != u32::MAX).then(|| {
            let value = take(value_bytes as usize);
            is_end = value.1;
            value.0
        });
        items.push((key.0, value, revision));
    }
    assert_eq!(items.len(), page.items);
    items
}

fn page(view: &View, query: &ListQuery, after: Option<Key>, items_max: usize, bytes_max: usize) -> Page {
    let request = PageRequest { query: query.clone(), after, items_max, bytes_max, encode: ENCODE };
    view.page(&request).unwrap()
}

/// All pages, each asked for twice.
fn walk(view: &View, query: &ListQuery, items_max: usize, bytes_max: usize) -> Vec<Item> {
    let (mut items, mut after) = (Vec::new(), None);
    loop {
        let found = page(view, query, after.clone(), items_max, bytes_max);
        assert_eq!(found, page(view, query, after, items_max, bytes_max), "the same page again");
        let more = decode(&found);
        assert!(more.len() <= items_max);
        let bytes: usize = more.iter().map(|(k, v, _)| k.len() + v.as_ref().map_or(0, Vec::len)).sum();
        assert!(bytes <= bytes_max || more.len() == 1);
        assert!(found.next.is_none() || !more.is_empty());
        items.extend(more);
        match found.next {
            Some(last) => after = Some(last),
            None => return items,
        }
    }
}

fn all(view: &View) -> Vec<Item> {
    walk(view, &ListQuery::default(), 7, 1 << 20)
}

/// A model is a map, as is what a range of it holds.
type Model = BTreeMap<Vec<u8>, (Vec<u8>, Revision)>;

fn expected(model: &Model, query: &ListQuery) -> Vec<Item> {
    let end = query.end.as_deref();
    let in_range = |key: &[u8]| {
        key.starts_with(&query.prefix) && *key >= query.start[..] && end.is_none_or(|end| key < end)
    };
    let found = model.iter().filter(|(key, _)| in_range(key));
    let mut items: Vec<Item> = found
        .map(|(key, (value, revision))| (key.clone(), (!query.keys_only).then(|| value.clone()), *revision))
        .collect();
    if query.reverse {
        items.reverse();
    }
    items
}

/// Applies one write and keeps the model up to date.
fn write(store: &StateMachine, model: &mut Model, key: &[u8], value: Option<Vec<u8>>) {
    let key = Key::new(key.to_vec()).unwrap();
    let command = match &value {
        Some(value) => Command::Set { pairs: vec![(key.clone(), Bytes::from(value.clone()))] },
        None => Command::Delete { key: key.clone() },
    };
    let log_id = at(store.applied().log_id.map_or(0, |id| id.index) + 1);
    let answers = store.apply(&[(log_id, Op::Command(command.into()))]).unwrap();
    match value {
        Some(value) => model.insert(key.as_bytes().to_vec(), (value, answers[0].revision)),
        None => model.remove(key.as_bytes()),
    };
}

/// Few letters, so that prefixes meet, with the bytes at the ends of their range.
fn piece(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0u8), Just(1), Just(b'a'), Just(b'b'), Just(0xfe), Just(0xff)];
    proptest::collection::vec(byte, len)
}

fn query() -> impl Strategy<Value = ListQuery> {
    let end = proptest::option::of(piece(0..4));
    (piece(0..3), piece(0..4), end, any::<bool>(), any::<bool>()).prop_map(
        |(prefix, start, end, reverse, keys_only)| ListQuery {
            prefix: prefix.into(),
            start: start.into(),
            end: end.map(Bytes::from),
            reverse,
            keys_only,
        },
    )
}

#[derive(Debug, Clone)]
enum Step {
    Set(Vec<u8>, u64),
    Delete(Vec<u8>),
    Flush,
    /// Looks at a range, now and in the views that were taken before.
    Look(ListQuery, usize, usize),
    View,
    Forget,
    Install,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (piece(1..5), any::<u64>()).prop_map(|(key, seed)| Step::Set(key, seed)),
        4 => piece(1..5).prop_map(Step::Delete),
        1 => Just(Step::Flush),
        6 => (query(), 1..6usize, prop_oneof![Just(1usize), 20..400usize])
            .prop_map(|(query, items, bytes)| Step::Look(query, items, bytes)),
        2 => Just(Step::View),
        1 => Just(Step::Forget),
        1 => Just(Step::Install),
    ]
}

fn run(steps: &[Step], in_memory: bool) {
    let _turn = TURN.lock();
    let dir = tempfile::tempdir().unwrap();
    let store = if in_memory { StateMachine::in_memory(tiny()) } else { open(dir.path()) };
    let mut model = Model::new();
    let mut views: Vec<(View, Model)> = Vec::new();
    let look = |view: &View, model: &Model, query: &ListQuery, items, bytes| {
        assert_eq!(walk(view, query, items, bytes), expected(model, query), "{query:?}");
    };
    for step in steps {
        match step {
            Step::Set(key, seed) => {
                let len = if seed % 16 == 0 { 4_000 } else { seed % 60 };
                let value = mix(*seed).to_le_bytes().repeat(len as usize / 8);
                write(&store, &mut model, key, Some(value));
            }
            Step::Delete(key) => write(&store, &mut model, key, None),
            Step::Flush => store.flush().unwrap(),
            Step::Look(query, items, bytes) => {
                let view = store.view().unwrap();
                assert_eq!(view.revision(), store.revision());
                look(&view, &model, query, *items, *bytes);
                views.iter().for_each(|(view, then)| look(view, then, query, *items, *bytes));
            }
            Step::View if views.len() < 3 => views.push((store.view().unwrap(), model.clone())),
            Step::View => {}
            Step::Forget => drop(views.pop()),
            Step::Install => {
                let snapshot = store.build_snapshot().unwrap();
                store.install_snapshot(&transfer(&snapshot, &store, 1 << 20)).unwrap();
            }
        }
    }
    for (view, then) in &views {
        look(view, then, &ListQuery::default(), 3, 1 << 20);
        look(view, then, &ListQuery { reverse: true, ..ListQuery::default() }, 3, 1 << 20);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn views_equal_maps(steps in proptest::collection::vec(step(), 1..60)) {
        run(&steps, false);
    }

    #[test]
    fn memory_views_equal_maps(steps in proptest::collection::vec(step(), 1..60)) {
        run(&steps, true);
    }
}

/// A view holds exactly the writes up to its revision, although others are applied, staged and written out
/// while it is taken.
#[test]
fn views_under_writes_are_exact() {
    let _turn = TURN.lock();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let entry = |index: u64| {
        // Each write sets every key to its own number, so two that differ betray a mixture.
        let value = Bytes::from(index.to_be_bytes().repeat(20));
        let pairs = (0..40).map(|number| (store::key(number), value.clone())).collect();
        (at(index), Op::Command(Command::Set { pairs }.into()))
    };
    const ENTRIES: u64 = 3_000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for index in 1..=ENTRIES {
                store.apply(&[entry(index)]).unwrap();
                if index % 700 == 0 {
                    let snapshot = store.build_snapshot().unwrap();
                    store.install_snapshot(&transfer(&snapshot, &store, 1 << 20)).unwrap();
                }
            }
        });
        let mut seen = 0;
        while seen < ENTRIES {
            let before = store.revision();
            let view = store.view().unwrap();
            assert!(view.revision() >= before && view.revision() >= seen);
            seen = view.revision();
            let items = all(&view);
            assert_eq!(items.len(), if seen == 0 { 0 } else { 40 });
            for (key, value, revision) in items {
                assert_eq!(revision, seen, "{}", key.escape_ascii());
                assert_eq!(value.unwrap(), seen.to_be_bytes().repeat(20));
            }
        }
    });
}

fn view_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "store-view").count()
}

/// Only for who has the turn: the views of other tests would count.
fn wait_for_threads(count: usize, _turn: &MutexGuard<'_, ()>) {
    let begun = Instant::now();
    while view_threads() != count {
        assert!(begun.elapsed() < Duration::from_secs(10), "{} threads, not {count}", view_threads());
        std::thread::yield_now();
    }
}

/// The thread of a view ends with it, and so does a generation of the data that only views still use; its
/// directory is gone then, and the store can be opened again.
#[test]
fn views_end_their_threads() {
    let turn = TURN.lock();
    wait_for_threads(0, &turn);
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut model = Model::new();
    write(&store, &mut model, b"k", Some(b"v".to_vec()));
    let views: Vec<View> = (0..5).map(|_| store.view().unwrap()).collect();
    wait_for_threads(5, &turn);
    let snapshot = store.build_snapshot().unwrap();
    store.install_snapshot(&transfer(&snapshot, &store, 1 << 20)).unwrap();
    write(&store, &mut model, b"k", Some(b"w".to_vec()));
    let generations = || {
        let entries = fs::read_dir(dir.path().join("rocksdb")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
    };
    assert_eq!(generations(), 2);
    for view in &views {
        assert_eq!(all(view), vec![(b"k".to_vec(), Some(b"v".to_vec()), 1)]);
    }
    drop(views);
    wait_for_threads(0, &turn);
    assert_eq!(generations(), 1);
    assert_eq!(all(&store.view().unwrap())[0].2, 2);
    wait_for_threads(0, &turn);
    drop(store);
    assert_eq!(open(dir.path()).revision(), 2);
}

/// A view of a store that has nothing, and one after what no listing shows.
#[test]
fn only_keys_are_listed() {
    let _turn = TURN.lock();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!((all(&store.view().unwrap()), store.view().unwrap().revision()), (vec![], 0));
    let run = [
        (at(1), Op::Membership(Bytes::from_static(b"m"))),
        (at(2), store::register("node1", "i1")),
        (at(3), Op::Blank),
    ];
    store.apply(&run).unwrap();
    let view = store.view().unwrap();
    assert_eq!((all(&view), view.revision()), (vec![], store.revision()));
}

/// A listing goes past the cache: it neither fills it nor displaces what is read often.
#[test]
fn listings_leave_the_cache_alone() {
    let _turn = TURN.lock();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut model = Model::new();
    for key in 0..200u8 {
        write(&store, &mut model, &[b'k', key], Some(vec![key; 100]));
    }
    let hot = Key::new(Bytes::from_static(b"k\x07")).unwrap();
    store.get(&hot).unwrap();
    let before = store.stats().cache;
    assert_eq!(before.entries, 1);
    assert_eq!(all(&store.view().unwrap()).len(), 200);
    assert_eq!(store.stats().cache, before);
}
