//! What a Raft log accepts, the same on disk and in memory. A refusal changes nothing.

use std::io;

use crate::log::LogBounds;
use crate::types::{LogId, Vote};

/// Whether `next` may replace `vote`: a later term; in the same term the same vote again, or a leader
/// that is known to have won. Anything else would be a second vote in one term.
pub(crate) fn vote_may_follow(vote: Vote, next: Vote) -> bool {
    next.term > vote.term
        || (next.term == vote.term
            && (next == vote
                || (next.committed && !vote.committed)
                || (next.committed == vote.committed && next.node_id == vote.node_id)))
}

pub(crate) fn check_vote(saved: Option<Vote>, next: Vote) -> io::Result<()> {
    match saved {
        Some(saved) if !vote_may_follow(saved, next) => {
            Err(refused(format!("vote {next:?} does not follow {saved:?}")))
        }
        Some(_) | None => Ok(()),
    }
}

/// Entries follow the last one without a hole; an empty log that was never purged may begin anywhere.
pub(crate) fn check_append(mut last: Option<LogId>, entries: impl Iterator<Item = LogId>) -> io::Result<()> {
    for id in entries {
        let follows = last.is_none_or(|last| id.index == last.index + 1 && id.term >= last.term);
        if !follows {
            return Err(refused(format!("entry {id:?} does not follow {last:?}")));
        }
        last = Some(id);
    }
    Ok(())
}

/// `found` is the entry at the index of `keep`, if the log holds one. Tells whether there is something
/// to remove.
pub(crate) fn check_truncate(
    bounds: LogBounds,
    committed: Option<LogId>,
    keep: Option<LogId>,
    found: Option<LogId>,
) -> io::Result<bool> {
    if keep < committed.max(bounds.purged) {
        return Err(refused(format!(
            "cannot truncate after {keep:?}: committed {committed:?}, purged {:?}",
            bounds.purged
        )));
    }
    let Some(keep) = keep else { return Ok(bounds.last.is_some()) };
    if bounds.last.is_none_or(|last| keep.index >= last.index) {
        // Nothing lies behind it.
        return Ok(false);
    }
    if found != Some(keep) && bounds.purged != Some(keep) {
        return Err(refused(format!("cannot truncate after {keep:?}: the log holds {found:?} there")));
    }
    Ok(true)
}

/// Whether `next` is to be saved as committed: never backwards, and only what the log holds, which is
/// what `found` tells. Otherwise what was saved stays, which costs only replay after a restart.
pub(crate) fn commits(
    bounds: LogBounds,
    saved: Option<LogId>,
    next: LogId,
    found: impl FnOnce() -> Option<LogId>,
) -> bool {
    saved.is_none_or(|saved| next > saved)
        && bounds.last.is_some_and(|last| next.index <= last.index)
        && (bounds.purged == Some(next) || found() == Some(next))
}

pub(crate) fn refused(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(term: u64, node_id: u64, committed: bool) -> Vote {
        Vote { term, node_id, committed }
    }

    /// Nobody votes twice in one term, but everybody learns who won it.
    #[test]
    fn one_vote_a_term() {
        let cast = vote(2, 5, false);
        for good in [cast, vote(2, 5, true), vote(2, 3, true), vote(3, 1, false)] {
            assert!(vote_may_follow(cast, good), "{good:?}");
        }
        for bad in [vote(2, 6, false), vote(2, 4, false), vote(1, 9, true)] {
            assert!(!vote_may_follow(cast, bad), "{bad:?}");
        }
        let won = vote(2, 5, true);
        for bad in [vote(2, 5, false), vote(2, 6, true), vote(2, 6, false)] {
            assert!(!vote_may_follow(won, bad), "{bad:?}");
        }
    }
}
