//! What it means that replicas' chains of hashes are the same or differ at a log index.
//!
//! Only committed entries are applied, so replicas at one index have applied the same ones: chains that differ there
//! show that somebody's memory, disk or program did something else. Who is wrong is decided by a majority of the voters,
//! and each node judges only itself. Invariant: of all voters always a majority stays, which agreed at some index.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use vaultdb_kv::NodeId;
use vaultdb_storage::{Chain, Checkpoint};

use crate::api::{AgreementStatus, Divergence};

/// Checkpoints of one peer that are looked at and remembered: more than any node keeps.
const CHECKPOINTS_MAX: usize = 1_024;

/// What a comparison shows. Indexes are of log entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// The last index at which this node is one of a majority that agrees.
    pub agreed: Option<u64>,
    /// The first index at which a majority agrees on something else than this node has.
    pub minority: Option<u64>,
    /// Who differs from the majority that this node is one of, and the first index at which.
    diverged: BTreeMap<NodeId, u64>,
    /// Who differs from this node where no majority agrees, and the first index at which.
    undecided: BTreeMap<NodeId, u64>,
    /// Who was found to be the same as this node, and the last index at which.
    equal: BTreeMap<NodeId, u64>,
}

/// Compares this node's checkpoints with those of others, of whom only who has answered now counts for a majority.
/// `voters` are the sets of whom each needs one.
pub fn judge(
    me: NodeId,
    own: &[Checkpoint],
    others: &BTreeMap<NodeId, Vec<Checkpoint>>,
    answered: &BTreeSet<NodeId>,
    voters: &[BTreeSet<NodeId>],
) -> Findings {
    let mut findings = Findings::default();
    let others: Vec<(NodeId, BTreeMap<u64, Chain>)> = others
        .iter()
        .map(|(id, list)| (*id, list.iter().take(CHECKPOINTS_MAX).map(|c| (c.index, c.chain)).collect()))
        .collect();
    let mut own: Vec<&Checkpoint> = own.iter().collect();
    own.sort_by_key(|checkpoint| checkpoint.index);
    let is_with_most = |ids: &BTreeSet<NodeId>| {
        let count = |id: &&NodeId| **id == me || answered.contains(id);
        is_majority(&ids.iter().filter(count).copied().collect(), voters)
    };
    for Checkpoint { index, chain } in own {
        let mut holders: BTreeMap<Chain, BTreeSet<NodeId>> = BTreeMap::new();
        for (id, checkpoints) in &others {
            // Chains that began elsewhere say nothing of each other.
            if let Some(found) = checkpoints.get(index).filter(|found| found.since == chain.since) {
                holders.entry(*found).or_default().insert(*id);
            }
        }
        let same = holders.remove(chain).unwrap_or_default();
        findings.equal.extend(same.iter().map(|id| (*id, *index)));
        let with_me: BTreeSet<NodeId> = same.into_iter().chain([me]).collect();
        let who_differs = holders.values().flatten();
        if is_with_most(&with_me) {
            findings.agreed = Some(*index);
            first_seen(&mut findings.diverged, who_differs, *index);
        } else if holders.values().any(is_with_most) {
            findings.minority.get_or_insert(*index);
        } else {
            first_seen(&mut findings.undecided, who_differs, *index);
        }
    }
    findings
}

fn first_seen<'a>(seen: &mut BTreeMap<NodeId, u64>, ids: impl Iterator<Item = &'a NodeId>, index: u64) {
    for id in ids {
        seen.entry(*id).or_insert(index);
    }
}

fn is_majority(ids: &BTreeSet<NodeId>, voters: &[BTreeSet<NodeId>]) -> bool {
    !voters.is_empty() && voters.iter().all(|voters| ids.intersection(voters).count() > voters.len() / 2)
}

/// What the comparisons so far have shown.
#[derive(Debug, Default)]
pub struct Agreement(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    compared_index: u64,
    /// Index, and whether a majority was against it.
    differing: BTreeMap<NodeId, (u64, bool)>,
    /// What each member told last, even if it is gone. It counts for as long as this node has a checkpoint at the
    /// same index.
    heard: BTreeMap<NodeId, Vec<Checkpoint>>,
}

impl Agreement {
    /// What a member tells of itself.
    pub fn hear(&self, from: NodeId, mut told: Vec<Checkpoint>) {
        told.truncate(CHECKPOINTS_MAX);
        self.0.lock().heard.insert(from, told);
    }

    pub fn take_heard(&self) -> BTreeMap<NodeId, Vec<Checkpoint>> {
        std::mem::take(&mut self.0.lock().heard)
    }

    /// What was heard since they were taken stays: it may be newer.
    pub fn put_back(&self, mut heard: BTreeMap<NodeId, Vec<Checkpoint>>) {
        heard.values_mut().for_each(|told| told.truncate(CHECKPOINTS_MAX));
        let known = &mut *self.0.lock();
        heard.append(&mut known.heard);
        known.heard = heard;
    }

    /// Takes findings in, and tells which are new. What is known of a member that could not be compared now stays.
    pub fn note(&self, findings: &Findings, is_member: impl Fn(NodeId) -> bool) -> Vec<(NodeId, u64, bool)> {
        let mut known = self.0.lock();
        known.compared_index = known.compared_index.max(findings.agreed.unwrap_or(0));
        let seen = [(&findings.undecided, false), (&findings.diverged, true)];
        let now: BTreeMap<NodeId, (u64, bool)> = seen
            .into_iter()
            .flat_map(|(found, decided)| found.iter().map(move |(id, index)| (*id, (*index, decided))))
            .collect();
        known.differing.retain(|id, (index, _)| {
            is_member(*id) && findings.equal.get(id).is_none_or(|equal| *equal < *index)
        });
        let mut new = Vec::new();
        for (id, (index, decided)) in now {
            let earlier = known.differing.get(&id);
            // What a majority has decided stays so when it cannot be asked again.
            if earlier.is_none_or(|(_, before)| decided && !before) {
                known.differing.insert(id, (index, decided));
                new.push((id, index, decided));
            }
        }
        new
    }

    pub fn status(&self, name: impl Fn(NodeId) -> String) -> AgreementStatus {
        let known = self.0.lock();
        let differing = known.differing.iter();
        let diverged = differing.map(|(id, (index, decided))| Divergence {
            peer: name(*id),
            index: *index,
            is_minority: *decided,
        });
        AgreementStatus { compared_index: known.compared_index, diverged: diverged.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = 1;

    fn at(index: u64, value: u64) -> Checkpoint {
        Checkpoint { index, chain: Chain { since: 0, value } }
    }

    fn judged(own: &[Checkpoint], others: &[(NodeId, &[Checkpoint])], voters: &[&[NodeId]]) -> Findings {
        let answered: Vec<NodeId> = others.iter().map(|(id, _)| *id).collect();
        judged_by(&answered, own, others, voters)
    }

    fn judged_by(
        answered: &[NodeId],
        own: &[Checkpoint],
        others: &[(NodeId, &[Checkpoint])],
        voters: &[&[NodeId]],
    ) -> Findings {
        let others = others.iter().map(|(id, list)| (*id, list.to_vec())).collect();
        let voters: Vec<BTreeSet<NodeId>> = voters.iter().map(|set| set.iter().copied().collect()).collect();
        judge(ME, own, &others, &answered.iter().copied().collect(), &voters)
    }

    /// Whatever five voters have: only who stands against a majority leaves, never so many that none is left, and
    /// whoever is with a majority stays. Absent voters agree with nobody.
    #[test]
    fn only_a_minority_against_a_majority_leaves() {
        let all: BTreeSet<NodeId> = (1..=5).collect();
        for code in 0..4u64.pow(5) {
            // 3 is a voter that does not answer.
            let value = |id: NodeId| code / 4u64.pow(id as u32 - 1) % 4;
            let votes = |wanted| all.iter().filter(|id| value(**id) == wanted).count();
            let mut leave = 0;
            for me in all.iter().copied().filter(|id| value(*id) != 3) {
                let others = all.iter().copied().filter(|id| *id != me && value(*id) != 3);
                let others = others.map(|id| (id, vec![at(7, value(id))])).collect();
                let findings = judge(me, &[at(7, value(me))], &others, &all, std::slice::from_ref(&all));
                let majority = (0..3).find(|wanted| votes(*wanted) >= 3);
                assert_eq!(findings.minority.is_some(), majority.is_some_and(|wanted| wanted != value(me)));
                assert_eq!(findings.agreed.is_some(), majority == Some(value(me)));
                leave += usize::from(findings.minority.is_some());
            }
            assert!(leave <= 2, "{leave} of five leave");
        }
    }

    /// This node's own opinion counts for it, not against others; two voters can never decide.
    #[test]
    fn small_clusters() {
        let pair = judged(&[at(7, 1)], &[(2, &[at(7, 2)])], &[&[1, 2]]);
        assert_eq!((pair.minority, pair.agreed, pair.undecided), (None, None, BTreeMap::from([(2, 7)])));
        let half = judged(&[at(7, 1)], &[(2, &[at(7, 2)])], &[&[1, 2, 3]]);
        assert_eq!((half.minority, half.agreed), (None, None), "one against one, and one is silent");
        let alone = judged(&[at(7, 1)], &[(2, &[at(7, 2)]), (3, &[at(7, 2)])], &[&[1, 2, 3]]);
        assert_eq!(alone.minority, Some(7));
        let learner = judged(&[at(7, 1)], &[(2, &[at(7, 2)]), (3, &[at(7, 2)])], &[&[2, 3, 4]]);
        assert_eq!(learner.minority, Some(7), "without a vote it is judged all the same");
    }

    /// While a change is under way a majority of the old and of the new voters has to agree.
    #[test]
    fn joint_majorities() {
        let others: [(NodeId, &[Checkpoint]); 2] = [(2, &[at(7, 2)]), (3, &[at(7, 2)])];
        assert_eq!(judged(&[at(7, 1)], &others, &[&[1, 2, 3], &[1, 4, 5]]).minority, None);
        assert_eq!(judged(&[at(7, 1)], &others, &[&[1, 2, 3], &[2, 3, 4]]).minority, Some(7));
        assert_eq!(judged(&[at(7, 1)], &others, &[]).minority, None, "no membership is known yet");
    }

    /// Different indexes and chains that began elsewhere are not compared; of several indexes the first difference and
    /// the last agreement are told.
    #[test]
    fn only_like_is_compared() {
        let later = Checkpoint { index: 7, chain: Chain { since: 3, value: 9 } };
        let none = judged(&[at(7, 1)], &[(2, &[at(6, 2)]), (3, &[later])], &[&[1, 2, 3]]);
        assert_eq!(none, Findings::default());
        let own = [at(1, 1), at(2, 2), at(3, 3), at(4, 4)];
        let findings = judged(&own, &[(2, &own), (3, &[at(2, 2), at(3, 9), at(4, 9)])], &[&[1, 2, 3]]);
        assert_eq!((findings.agreed, findings.minority), (Some(4), None));
        assert_eq!(findings.diverged, BTreeMap::from([(3, 3)]));
    }

    /// What a member told that is gone is compared on, but counts for no majority, neither for nor against.
    #[test]
    fn who_is_gone_is_judged_and_judges_nobody() {
        let (good, bad): (&[Checkpoint], &[Checkpoint]) = (&[at(7, 1)], &[at(7, 2)]);
        let gone = judged_by(&[2], good, &[(2, good), (3, bad)], &[&[1, 2, 3]]);
        assert_eq!((gone.agreed, gone.diverged), (Some(7), BTreeMap::from([(3, 7)])));
        let wrong = judged_by(&[2], bad, &[(2, good), (3, good)], &[&[1, 2, 3]]);
        assert_eq!((wrong.minority, wrong.undecided), (None, BTreeMap::from([(2, 7), (3, 7)])));
        let two = judged_by(&[3], good, &[(2, good), (3, bad)], &[&[1, 2, 3]]);
        assert_eq!((two.agreed, two.undecided), (None, BTreeMap::from([(3, 7)])));
    }

    /// What is heard while others are asked is not lost to what they answer, and one list of each is kept.
    #[test]
    fn the_last_word_stays() {
        let agreement = Agreement::default();
        agreement.hear(2, vec![at(7, 1)]);
        agreement.hear(3, vec![at(7, 1)]);
        let mut taken = agreement.take_heard();
        assert_eq!(taken, BTreeMap::from([(2, vec![at(7, 1)]), (3, vec![at(7, 1)])]));
        agreement.hear(3, vec![at(7, 2)]);
        taken.insert(2, vec![at(8, 1); 2 * CHECKPOINTS_MAX]);
        agreement.put_back(taken);
        let expected = BTreeMap::from([(2, vec![at(8, 1); CHECKPOINTS_MAX]), (3, vec![at(7, 2)])]);
        assert_eq!(agreement.take_heard(), expected);
    }

    /// Who differs stays known, and decided, also when the majority cannot be asked again; that it was the same at an
    /// earlier index says nothing.
    #[test]
    fn a_decision_stays() {
        let agreement = Agreement::default();
        let index_and_is_minority =
            || agreement.status(|id| format!("n{id}")).diverged.first().map(|d| (d.index, d.is_minority));
        let (own, other) = ([at(5, 1), at(7, 1)], [at(5, 1), at(7, 2)]);
        let open = judged(&own, &[(3, &other)], &[&[1, 2, 3]]);
        assert_eq!(agreement.note(&open, |_| true), [(3, 7, false)]);
        let decided = judged(&own, &[(2, &own), (3, &other)], &[&[1, 2, 3]]);
        assert_eq!(agreement.note(&decided, |_| true), [(3, 7, true)]);
        assert_eq!(agreement.note(&open, |_| true), []);
        assert_eq!(index_and_is_minority(), Some((7, true)));
        let beyond = judged(&[at(5, 1), at(8, 1)], &[(3, &other)], &[&[1, 2, 3]]);
        agreement.note(&beyond, |_| true);
        assert_eq!(index_and_is_minority(), Some((7, true)));
        let again = judged(&own, &[(3, &own)], &[&[1, 2, 3]]);
        agreement.note(&again, |_| true);
        assert_eq!(index_and_is_minority(), None);
    }

    /// A difference is news once, stays known while the member cannot be compared, and is forgotten when the member is
    /// the same again or is one no longer.
    #[test]
    fn differences_are_kept_while_they_may_last() {
        let agreement = Agreement::default();
        let status = || agreement.status(|id| format!("n{id}"));
        let differs = judged(&[at(7, 1)], &[(2, &[at(7, 1)]), (3, &[at(7, 2)])], &[&[1, 2, 3]]);
        assert_eq!(agreement.note(&differs, |_| true), [(3, 7, true)]);
        assert_eq!(agreement.note(&differs, |_| true), []);
        let expected = Divergence { peer: "n3".into(), index: 7, is_minority: true };
        let silent = judged(&[at(8, 1)], &[(2, &[at(8, 1)])], &[&[1, 2, 3]]);
        assert_eq!(agreement.note(&silent, |_| true), []);
        assert_eq!(status(), AgreementStatus { compared_index: 8, diverged: vec![expected] });
        let same = judged(&[at(9, 1)], &[(2, &[at(9, 1)]), (3, &[at(9, 1)])], &[&[1, 2, 3]]);
        agreement.note(&same, |_| true);
        assert_eq!(status().diverged, []);
        agreement.note(&differs, |_| true);
        agreement.note(&silent, |id| id != 3);
        assert_eq!(status().diverged, []);
    }
}
