//! A quarantine that is cut short after any step goes on from there, and nothing that was set aside gets lost.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;

use tempfile::TempDir;

use super::*;
use crate::members::tests::write as write_members;

const REASON: &str = "the log is corrupt";

/// A member's data directory: each part holds who it is.
fn member() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut identity = Identity::new("a");
    identity.bootstrap();
    identity.cluster_id = Some("c".into());
    identity.save(dir.path()).unwrap();
    for part in &PARTS[..3] {
        fs::create_dir(dir.path().join(part)).unwrap();
        fs::write(dir.path().join(part).join("file"), part).unwrap();
    }
    write_members(dir.path(), "c", "a", &[("a", "here:1"), ("b", "there:2")]);
    dir
}

fn part(dir: &Path, name: &str) -> PathBuf {
    match name {
        "identity.json" => dir.join(name),
        _ => dir.join(name).join("file"),
    }
}

fn expected() -> Rebuild {
    let (reason, cluster_id) = (REASON.to_owned(), "c".to_owned());
    Rebuild { reason, cluster_id, former_id: Some(1), peers: vec!["there:2".into()] }
}

/// Whatever step a kill follows, the next start ends where one without a kill does.
#[test]
fn a_kill_between_any_two_steps() {
    for killed_after in 0.. {
        let dir = member();
        let dir = dir.path();
        // What an earlier quarantine left goes first.
        fs::create_dir(dir.join(QUARANTINED)).unwrap();
        fs::write(dir.join(QUARANTINED).join("old"), "old").unwrap();
        mark(dir, REASON).unwrap();
        let mut record = load(dir).unwrap().unwrap();
        let mut over = false;
        for _ in 0..killed_after {
            over |= !step(dir, "a", &[], &mut record).unwrap();
        }
        assert_eq!(set_aside(dir, "a", &[]).unwrap(), expected(), "killed after {killed_after} steps");
        let aside = dir.join(QUARANTINED);
        for name in PARTS {
            assert!(!dir.join(name).exists(), "{name} after {killed_after}");
            assert!(part(&aside, name).exists(), "{name} after {killed_after}");
        }
        assert!(!aside.join("old").exists());
        // Asked again, as by a start that was killed before it had joined.
        assert_eq!(set_aside(dir, "a", &[]).unwrap(), expected());
        if over {
            assert!(killed_after > PARTS.len());
            return;
        }
    }
}

/// The identity may be what is damaged: then the members tell the cluster. Neither, and nothing is moved.
#[test]
fn the_cluster_must_be_known() {
    let dir = member();
    let dir = dir.path();
    let identity = dir.join("identity.json");
    fs::write(&identity, "{").unwrap();
    mark(dir, REASON).unwrap();
    fs::rename(dir.join("members.json"), dir.join("hidden")).unwrap();
    let others = vec!["there:3".to_owned()];
    let refused = set_aside(dir, "a", &others).unwrap_err().to_string();
    assert!(refused.contains(REASON) && refused.contains("which cluster"), "{refused}");
    assert!(identity.exists() && dir.join("wal").exists() && !dir.join(QUARANTINED).exists());
    // Those of another name's directory do not count.
    fs::rename(dir.join("hidden"), dir.join("members.json")).unwrap();
    assert!(set_aside(dir, "b", &others).is_err());
    let rebuild = set_aside(dir, "a", &others).unwrap();
    assert_eq!(rebuild.peers, ["there:2", "there:3"]);
    assert_eq!((rebuild.cluster_id.as_str(), rebuild.former_id), ("c", Some(1)));
}

/// A node that knows nobody is left as it is.
#[test]
fn a_node_alone_is_refused() {
    let dir = member();
    write_members(dir.path(), "c", "a", &[("a", "here:1")]);
    check(dir.path(), "a", REASON, &[]).unwrap_err();
    mark(dir.path(), REASON).unwrap();
    let refused = set_aside(dir.path(), "a", &[]).unwrap_err().to_string();
    assert!(refused.contains("no other member"), "{refused}");
    assert!(dir.path().join("wal").exists());
    assert_eq!(found(dir.path()).unwrap(), Some((Phase::Found, REASON.to_owned())));
}

/// A disk that damages all that it is given does not have the node rebuilt for ever.
#[test]
fn at_most_so_many_in_an_hour() {
    let dir = member();
    let dir = dir.path();
    for _ in 0..QUARANTINES_MAX {
        mark(dir, REASON).unwrap();
        set_aside(dir, "a", &[]).unwrap();
        Identity { cluster_id: Some("c".into()), node_id: Some(7), ..Identity::new("a") }.save(dir).unwrap();
        joined(dir).unwrap();
        over(dir).unwrap();
        assert_eq!(found(dir).unwrap(), Some((Phase::Over, REASON.to_owned())));
    }
    mark(dir, REASON).unwrap();
    let refused = set_aside(dir, "a", &[]).unwrap_err().to_string();
    assert!(refused.contains("4th time within an hour"), "{refused}");
    assert!(dir.join("identity.json").exists());
    // An hour later they count no longer.
    let marked = load(dir).unwrap().unwrap();
    let hour_ms = u64::try_from(WINDOW.as_millis()).unwrap();
    let later = begin(dir, "a", &[], &marked, unix_ms() + hour_ms).unwrap();
    assert_eq!(later.at_ms.len(), 1);
}

/// The node finds damage, is set aside and joins; what it then has says which time it was.
fn set_aside_and_join(dir: &Path, what_it_gets: &str) {
    mark(dir, REASON).unwrap();
    set_aside(dir, "a", &[]).unwrap();
    Identity { cluster_id: Some("c".into()), node_id: Some(7), ..Identity::new("a") }.save(dir).unwrap();
    fs::create_dir(dir.join("wal")).unwrap();
    fs::write(part(dir, "wal"), what_it_gets).unwrap();
    joined(dir).unwrap();
}

/// Damage before the rebuild is over, however often, does not cost what was set aside at first; once it is over, it does.
#[test]
fn further_damage_while_it_is_rebuilt() {
    let dir = member();
    let dir = dir.path();
    let log_in = |place: &str| fs::read_to_string(part(&dir.join(place), "wal")).ok();
    let whole = Some("wal".to_owned());
    set_aside_and_join(dir, "first");
    assert_eq!((log_in(QUARANTINED), log_in(FIRST)), (whole.clone(), None));
    set_aside_and_join(dir, "second");
    assert_eq!((log_in(QUARANTINED), log_in(FIRST)), (Some("first".into()), whole.clone()));
    // What it has done is lost with the record: it could be anything.
    fs::write(dir.join(FILE), "{").unwrap();
    set_aside_and_join(dir, "third");
    assert_eq!((log_in(QUARANTINED), log_in(FIRST)), (Some("second".into()), whole));
    over(dir).unwrap();
    set_aside_and_join(dir, "fourth");
    assert_eq!((log_in(QUARANTINED), log_in(FIRST)), (Some("third".into()), None));
}

/// What was begun anew may be damaged before the node has joined: it goes the same way, whatever step a kill follows,
/// the record alone tells the cluster then, and it counts like any other time.
#[test]
fn damaged_before_it_has_joined() {
    const AGAIN: &str = "the identity is damaged";
    let kept = |dir: &Path, place: &str, name: &str| fs::read_to_string(part(&dir.join(place), name)).ok();
    for killed_after in 0..PARTS.len() {
        let dir = member();
        let dir = dir.path();
        mark(dir, REASON).unwrap();
        set_aside(dir, "a", &[]).unwrap();
        fs::remove_file(dir.join("members.json")).unwrap();
        for time in 2..=QUARANTINES_MAX {
            let begun = time.to_string();
            fs::write(dir.join("identity.json"), &begun).unwrap();
            fs::create_dir(dir.join("wal")).unwrap();
            fs::write(part(dir, "wal"), &begun).unwrap();
            check(dir, "a", AGAIN, &[]).unwrap();
            mark(dir, AGAIN).unwrap();
            let mut record = load(dir).unwrap().unwrap();
            for _ in 0..killed_after {
                step(dir, "a", &[], &mut record).unwrap();
            }
            let rebuild = set_aside(dir, "a", &[]).unwrap();
            assert_eq!(
                rebuild,
                Rebuild { reason: AGAIN.into(), ..expected() },
                "killed after {killed_after} steps"
            );
            assert_eq!(load(dir).unwrap().unwrap().at_ms.len(), time);
            assert!(!dir.join("identity.json").exists() && !dir.join("wal").exists());
            for name in ["wal", "identity.json"] {
                assert_eq!(kept(dir, QUARANTINED, name).as_ref(), Some(&begun), "{name}");
            }
            assert_eq!(kept(dir, FIRST, "wal").as_deref(), Some("wal"), "what it had at first");
            assert!(part(&dir.join(FIRST), "identity.json").exists());
        }
        fs::write(dir.join("identity.json"), "once more").unwrap();
        let refused = check(dir, "a", AGAIN, &[]).unwrap_err().to_string();
        assert!(refused.contains("4th time within an hour"), "{refused}");
    }
}

/// A node that finds damage at the moment at which its rebuild ends stays marked, whichever comes first.
#[test]
fn marked_while_the_rebuild_ends() {
    const ROUNDS: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for round in 0..ROUNDS {
        let rebuilding = Record { phase: Phase::Rebuilding, ..Record::found("before", Vec::new(), false) };
        sealed::save(dir, FILE, &rebuilding).unwrap();
        let both = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                both.wait();
                over(dir).unwrap();
            });
            both.wait();
            mark(dir, REASON).unwrap();
        });
        assert_eq!(found(dir).unwrap(), Some((Phase::Found, REASON.to_owned())), "round {round}");
    }
}

/// A kill before or after the first data are moved on leaves them where they were or where they go.
#[test]
fn killed_while_the_first_data_move_on() {
    let dir = member();
    let dir = dir.path();
    set_aside_and_join(dir, "first");
    mark(dir, REASON).unwrap();
    make_room(dir, true).unwrap();
    assert_eq!(load(dir).unwrap().unwrap().phase, Phase::Found, "killed here");
    set_aside(dir, "a", &[]).unwrap();
    assert_eq!(fs::read_to_string(part(&dir.join(FIRST), "wal")).unwrap(), "wal");
    assert_eq!(fs::read_to_string(part(&dir.join(QUARANTINED), "wal")).unwrap(), "first");
}

/// A damaged record never makes a directory look new.
#[test]
fn a_damaged_record() {
    let dir = member();
    let dir = dir.path();
    fs::write(dir.join(FILE), "{").unwrap();
    assert_eq!(found(dir).unwrap(), None, "the data speak for themselves");
    mark(dir, REASON).unwrap();
    set_aside(dir, "a", &[]).unwrap();
    fs::write(dir.join(FILE), "{").unwrap();
    assert!(found(dir).is_err());
}
