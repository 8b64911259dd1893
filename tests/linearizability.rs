//! The checker itself: what it must accept, what it must find, and that it agrees with trying every order.

#![allow(clippy::unwrap_used)]

mod support;

use support::dice::{seed, Dice};
use support::linearizability::{check, check_within, Objection};
use support::operations::{Action, Answer, Operation};
use support::violation::violation;

/// Histories of each kind that are tried at random.
const SIMULATED: usize = 60;
const TINY: usize = 20_000;

fn op(times: (u64, u64), action: Action, answer: Answer) -> Operation {
    Operation { client: 0, node: 0, action, answer, began_ns: times.0, ended_ns: times.1 }
}

fn write(times: (u64, u64), value: &str) -> Operation {
    op(times, Action::Write { value: value.into() }, Answer::Done)
}

fn lost(began: u64, value: &str) -> Operation {
    op((began, began + 1), Action::Write { value: value.into() }, Answer::Unknown("lost".into()))
}

fn failed(times: (u64, u64), value: &str) -> Operation {
    op(times, Action::Write { value: value.into() }, Answer::Failed("503".into()))
}

fn delete(times: (u64, u64), was_there: bool) -> Operation {
    op(times, Action::Delete, Answer::Deleted(was_there))
}

fn create(times: (u64, u64), value: &str, answer: Answer) -> Operation {
    op(times, Action::Create { value: value.into() }, answer)
}

fn swap(times: (u64, u64), from: &str, value: &str, answer: Answer) -> Operation {
    op(times, Action::Swap { from: from.into(), value: value.into() }, answer)
}

/// A read; an empty value stands for an absent key.
fn read(times: (u64, u64), found: &str) -> Operation {
    op(times, Action::Read, Answer::Found((!found.is_empty()).then(|| found.into())))
}

fn accepted(history: &[Operation]) {
    assert!(violation("k", history).is_none(), "{}", violation("k", history).unwrap());
}

/// The history is refused because of operation `at`.
fn refused(history: &[Operation], at: usize) -> String {
    match check(history) {
        Err(Objection::Unexplained { operation, .. }) => assert_eq!(operation, at),
        other => panic!("{other:?}"),
    }
    violation("k", history).unwrap().to_string()
}

#[test]
fn one_after_the_other() {
    accepted(&[]);
    accepted(&[
        read((0, 1), ""),
        write((2, 3), "a"),
        read((4, 5), "a"),
        write((6, 7), "b"),
        read((8, 9), "b"),
        delete((10, 11), true),
        read((12, 13), ""),
        delete((14, 15), false),
    ]);
}

#[test]
fn a_read_during_a_write_may_see_either() {
    accepted(&[write((0, 1), "a"), write((2, 9), "b"), read((3, 4), "a"), read((5, 6), "b")]);
    accepted(&[write((0, 1), "a"), write((2, 9), "b"), read((3, 8), "b"), read((4, 5), "a")]);
}

#[test]
fn a_stale_read() {
    let said = refused(&[write((0, 1), "a"), write((2, 3), "b"), read((4, 5), "a")], 2);
    assert!(said.contains("could be: a value that nobody read"), "{said}");
}

/// The excerpt holds the contradiction and nothing else.
#[test]
fn the_excerpt_is_short() {
    let mut history = Vec::new();
    for i in 0..200 {
        history.push(write((20 * i, 20 * i + 3), &format!("v{i}")));
        history.push(read((20 * i + 5, 20 * i + 7), &format!("v{i}")));
        history.push(read((20 * i + 6, 20 * i + 8), &format!("v{i}")));
    }
    history.push(read((3_985, 3_990), "v198"));
    let found = violation("k", &history).unwrap();
    let lines: Vec<String> = found.excerpt.iter().map(|op| op.line(0)).collect();
    // The write of the old value, one after it that was over, and the read of the old value.
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[0].contains("write v198") && lines[1].contains("write v199"), "{lines:#?}");
}

#[test]
fn a_lost_write() {
    refused(&[write((0, 1), "a"), read((2, 3), "")], 1);
    refused(&[write((0, 1), "a"), write((2, 3), "b"), delete((4, 5), false)], 2);
}

#[test]
fn a_value_that_nobody_wrote() {
    let said = refused(&[write((0, 1), "a"), read((2, 3), "z")], 1);
    assert!(said.contains("nobody ever wrote"), "{said}");
}

#[test]
fn a_value_from_the_future() {
    refused(&[read((0, 1), "a"), write((2, 3), "a")], 0);
}

#[test]
fn an_unknown_write_may_take_effect_late_or_never() {
    let early = [lost(0, "a"), write((2, 3), "b"), read((4, 5), "b")];
    accepted(&early);
    let mut late = early.to_vec();
    late.extend([read((6, 7), "b"), read((8, 9), "a"), read((10, 11), "a")]);
    accepted(&late);
}

#[test]
fn an_unknown_write_takes_effect_once() {
    let history = [lost(0, "a"), read((2, 3), "a"), write((4, 5), "b"), read((6, 7), "b"), read((8, 9), "a")];
    refused(&history, 4);
}

/// Two of unknown outcome with one value may both take effect, a third time nobody.
#[test]
fn unknown_writes_are_counted() {
    let mut history = vec![lost(0, "a"), lost(0, "a")];
    for i in 1..=2 {
        history.extend([read((10 * i, 10 * i + 1), "a"), write((10 * i + 2, 10 * i + 3), "b")]);
    }
    accepted(&history);
    history.push(read((40, 41), "a"));
    refused(&history, 6);
}

#[test]
fn a_refused_write_that_appears() {
    let said = refused(&[failed((0, 1), "a"), read((2, 3), "a")], 1);
    assert!(said.contains("not applied (503)"), "{said}");
    refused(&[write((0, 1), "a"), create((2, 3), "b", Answer::Refused), read((4, 5), "b")], 2);
}

#[test]
fn reads_that_disagree_about_the_order() {
    let history = [write((0, 1), "a"), write((2, 20), "b"), read((3, 4), "b"), read((5, 6), "a")];
    refused(&history, 3);
    // Two writes at once: two readers may not see them in opposite orders.
    let history =
        [write((0, 20), "a"), write((0, 20), "b"), read((1, 2), "a"), read((3, 4), "b"), read((5, 6), "a")];
    refused(&history, 4);
}

#[test]
fn conditions_tell_of_the_state() {
    accepted(&[
        create((0, 1), "a", Answer::Done),
        swap((2, 3), "a", "b", Answer::Done),
        swap((4, 5), "a", "c", Answer::Refused),
        create((6, 7), "d", Answer::Refused),
        delete((8, 9), true),
        create((10, 11), "e", Answer::Done),
        read((12, 13), "e"),
    ]);
    refused(&[write((0, 1), "a"), create((2, 3), "b", Answer::Done)], 1);
    refused(&[write((0, 1), "a"), swap((2, 3), "a", "b", Answer::Refused)], 1);
    // Only one of two that swap the same value can win.
    refused(
        &[write((0, 1), "a"), swap((2, 9), "a", "b", Answer::Done), swap((2, 9), "a", "c", Answer::Done)],
        2,
    );
    // A write of unknown outcome that nobody read explains why the key is there.
    accepted(&[lost(0, "a"), create((2, 3), "b", Answer::Refused), delete((4, 5), true), read((6, 7), "")]);
    refused(
        &[
            lost(0, "a"),
            create((2, 3), "b", Answer::Refused),
            delete((4, 5), true),
            create((6, 7), "c", Answer::Refused),
        ],
        3,
    );
}

/// A search that is given up does not pass.
#[test]
fn a_limit_is_no_verdict() {
    let history: Vec<_> = (0..9).map(|i| write((0, 20), &format!("v{i}"))).collect();
    let objection = check_within(&history, 3).unwrap_err();
    assert!(matches!(objection, Objection::TooHard { .. }), "{objection:?}");
    let crowd: Vec<_> = (0..65).map(|_| read((0, 20), "")).collect();
    let found = violation("k", &crowd).unwrap();
    assert!(found.to_string().contains("counts as a failure"), "{found}");
}

/// Clients of one register that is atomic by construction: each operation has its effect at an instant of its
/// own, those of unknown outcome at any later time or never.
fn simulate(dice: &mut Dice, clients: usize, each: usize, unknown_percent: u64) -> Vec<Operation> {
    let mut history = Vec::new();
    let mut effects: Vec<(u64, usize)> = Vec::new();
    for client in 0..clients {
        let mut now = dice.below(20);
        for number in 0..each {
            let value = format!("c{client}-{number}");
            let action = match dice.below(20) {
                0..=9 => Action::Read,
                10..=15 => Action::Write { value },
                16..=17 => Action::Delete,
                18 => Action::Create { value },
                // Which value is found out when it takes effect.
                _ => Action::Swap { from: String::new(), value },
            };
            let (began_ns, effect) = (now, now + dice.within(1..20));
            let ended_ns = effect + dice.within(1..20);
            now = ended_ns + dice.within(1..20);
            let mut operation =
                Operation { client, node: 0, action, answer: Answer::Done, began_ns, ended_ns };
            if dice.chance(5) {
                operation.answer = Answer::Failed("simulated".into());
            } else if dice.chance(unknown_percent) {
                operation.answer = Answer::Unknown("simulated".into());
                if dice.chance(60) {
                    effects.push((effect + dice.below(600), history.len()));
                }
            } else {
                effects.push((effect, history.len()));
            }
            history.push(operation);
        }
    }
    effects.sort_unstable();
    let mut state: Option<String> = None;
    let mut recent: Option<String> = None;
    for (_, i) in effects {
        let guess = if dice.chance(50) { state.clone() } else { recent.clone() };
        if let (Action::Swap { from, .. }, Some(guess)) = (&mut history[i].action, guess) {
            *from = guess;
        }
        let answer = take_effect(&history[i].action, &mut state);
        if state.is_some() {
            recent.clone_from(&state);
        }
        if history[i].is_settled() {
            history[i].answer = answer;
        }
    }
    history
}

fn take_effect(action: &Action, state: &mut Option<String>) -> Answer {
    let holds = match action {
        Action::Read => return Answer::Found(state.clone()),
        Action::Delete => return Answer::Deleted(state.take().is_some()),
        Action::Write { .. } => true,
        Action::Create { .. } => state.is_none(),
        Action::Swap { from, .. } => state.as_ref() == Some(from),
    };
    match action {
        Action::Write { value } | Action::Create { value } | Action::Swap { value, .. } if holds => {
            *state = Some(value.clone());
            Answer::Done
        }
        _ => Answer::Refused,
    }
}

/// Turns one read into one that certainly comes from the past; answers where.
fn make_stale(dice: &mut Dice, history: &mut [Operation]) -> Option<usize> {
    let written = |op: &Operation| op.action.value().is_some() && op.answer == Answer::Done;
    let mut choices = Vec::new();
    for (r, read) in history.iter().enumerate().filter(|(_, op)| matches!(op.answer, Answer::Found(_))) {
        // The last write that was over before the read began, and one that was over before that one.
        let Some(last) = history
            .iter()
            .filter(|op| written(op) && op.ended_ns < read.began_ns)
            .max_by_key(|op| op.began_ns)
        else {
            continue;
        };
        let old = history.iter().filter(|op| written(op) && op.ended_ns < last.began_ns);
        choices.extend(old.map(|old| (r, old.action.value().unwrap().to_owned())));
    }
    if choices.is_empty() {
        return None;
    }
    let (r, value) = choices.swap_remove(dice.below(choices.len() as u64) as usize);
    history[r].answer = Answer::Found(Some(value));
    Some(r)
}

#[test]
fn an_atomic_register_is_accepted_and_one_stale_read_is_found() {
    let mut dice = Dice::new(seed());
    let mut found = 0;
    for round in 0..SIMULATED {
        let clients = 2 + dice.below(9) as usize;
        let mut history = simulate(&mut dice, clients, 60, 5);
        check(&history).unwrap_or_else(|objection| panic!("round {round}: {objection:?}"));
        let Some(at) = make_stale(&mut dice, &mut history) else { continue };
        let objection = check(&history).expect_err(&format!("round {round}: {}", history[at].line(0)));
        assert!(matches!(objection, Objection::Unexplained { .. }), "{objection:?}");
        found += 1;
    }
    assert!(found > SIMULATED / 2, "{found} of {SIMULATED} rounds could be made stale");
}

/// Some thousand operations on one key, many of them open at once and many of unknown outcome, are checked
/// with room to spare.
#[test]
fn long_histories_are_cheap() {
    let mut dice = Dice::new(seed());
    let history = simulate(&mut dice, 8, 750, 4);
    let began = std::time::Instant::now();
    let steps = check(&history).unwrap_or_else(|objection| panic!("{objection:?}"));
    println!("{} operations: {steps} steps, {:?}", history.len(), began.elapsed());
    assert!(steps < 1_000_000, "{steps} steps");
}

/// Whether some order explains what is left, by trying all of them.
fn brute(history: &[Operation], left: u32, state: &Option<String>) -> bool {
    let waits = |i: usize| left & (1 << i) != 0;
    if (0..history.len()).all(|i| !waits(i) || !history[i].is_settled()) {
        return true;
    }
    (0..history.len()).filter(|i| waits(*i)).any(|i| {
        let op = &history[i];
        let before = |other: &Operation| other.is_settled() && other.ended_ns < op.began_ns;
        if (0..history.len()).any(|j| j != i && waits(j) && before(&history[j])) {
            return false;
        }
        let mut next = state.clone();
        let answer = take_effect(&op.action, &mut next);
        (!op.is_settled() || answer == op.answer || op.answer == Answer::Done && op.action == Action::Delete)
            && brute(history, left & !(1 << i), &next)
    })
}

/// Any small history, sensible or not.
fn tiny(dice: &mut Dice) -> Vec<Operation> {
    let value = |dice: &mut Dice| ["a", "b", "c"][dice.below(3) as usize].to_owned();
    (0..2 + dice.below(5))
        .map(|_| {
            let action = match dice.below(7) {
                0..=2 => Action::Read,
                3 => Action::Write { value: value(dice) },
                4 => Action::Delete,
                5 => Action::Create { value: value(dice) },
                _ => Action::Swap { from: value(dice), value: value(dice) },
            };
            let answer = match &action {
                Action::Read if dice.chance(30) => Answer::Found(None),
                Action::Read => Answer::Found(Some(value(dice))),
                _ if dice.chance(25) => Answer::Unknown(String::new()),
                Action::Delete => Answer::Deleted(dice.chance(50)),
                Action::Create { .. } | Action::Swap { .. } if dice.chance(30) => Answer::Refused,
                _ => Answer::Done,
            };
            let began = dice.below(12);
            op((began, began + 1 + dice.below(8)), action, answer)
        })
        .collect()
}

#[test]
fn the_search_agrees_with_trying_every_order() {
    let mut dice = Dice::new(seed());
    let mut accepted = 0;
    for round in 0..TINY {
        let history = tiny(&mut dice);
        let expected = brute(&history, (1 << history.len()) - 1, &None);
        let lines: Vec<String> = history.iter().map(|op| op.line(0)).collect();
        assert_eq!(check(&history).is_ok(), expected, "round {round}: {lines:#?}");
        accepted += usize::from(expected);
    }
    println!("{accepted} of {TINY} accepted");
    assert!(accepted > TINY / 20 && accepted < TINY * 19 / 20, "{accepted} of {TINY} accepted");
}
