//! What a leader does with writes of its peers while its own disk is nearly full.
//!
//! Only for what comes over the Raft port: a node asks itself before it takes a write in. Invariant: what is refused
//! here has reached no log, and every command is answered in its place.

use std::future::Future;

use vaultdb_kv::{Room, Shortage};

use crate::api::ProposeError;
use crate::core::Core;
use crate::types::SharedCommand;

impl Core {
    /// Hands `commands` to `take`, without those that set a value while this leader has no room for them. One answer a
    /// command, in order.
    pub async fn take_within_room<T, F>(
        &self,
        commands: Vec<SharedCommand>,
        take: impl FnOnce(std::vec::IntoIter<SharedCommand>) -> F,
    ) -> Vec<Result<T, ProposeError>>
    where
        F: Future<Output = Vec<Result<T, ProposeError>>>,
    {
        // Where another leads, it is asked: its room is what counts.
        if !self.leadership().is_local {
            return take(commands.into_iter()).await;
        }
        let refusals = commands.iter().map(|command| refusal(&self.room, command)).collect();
        without_refused(refusals, commands, take).await
    }
}

fn refusal(room: &Room, command: &SharedCommand) -> Option<Shortage> {
    let bytes = u64::try_from(command.0.payload_bytes()).unwrap_or(u64::MAX);
    command.0.grows().then(|| room.take(bytes)).flatten()
}

async fn without_refused<T, F>(
    refusals: Vec<Option<Shortage>>,
    commands: Vec<SharedCommand>,
    take: impl FnOnce(std::vec::IntoIter<SharedCommand>) -> F,
) -> Vec<Result<T, ProposeError>>
where
    F: Future<Output = Vec<Result<T, ProposeError>>>,
{
    if refusals.iter().all(Option::is_none) {
        return take(commands.into_iter()).await;
    }
    let all = commands.into_iter().zip(&refusals);
    let taken: Vec<_> = all.filter(|(_, refusal)| refusal.is_none()).map(|(command, _)| command).collect();
    let mut answers = match taken.is_empty() {
        true => Vec::new(),
        false => take(taken.into_iter()).await,
    }
    .into_iter();
    let unanswered = || Err(ProposeError::Unknown { reason: "consensus gave no answer".into() });
    refusals
        .into_iter()
        .map(|refusal| match refusal {
            Some(shortage) => Err(ProposeError::OutOfSpace(shortage)),
            None => answers.next().unwrap_or_else(unanswered),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;
    use vaultdb_kv::{Command, Key, Measured, RoomLines};

    use super::*;

    /// What grows is refused in its place, the rest is handed on in its order, and nothing is handed on when nothing is
    /// left.
    #[test]
    fn each_command_has_its_own_answer() {
        let room = Room::new("n", Arc::default());
        let set = || SharedCommand::new(Arc::new(Command::Set { pairs: vec![] }));
        let delete = |key: &str| {
            let key = Key::new(key.to_owned()).expect("a key");
            SharedCommand::new(Arc::new(Command::Delete { key }))
        };
        let take = |commands: std::vec::IntoIter<SharedCommand>| async move {
            commands
                .map(|command| match &*command.0 {
                    Command::Delete { key } => Ok(key.as_bytes().to_vec()),
                    _ => Ok(b"set".to_vec()),
                })
                .collect()
        };
        let answer = |commands: Vec<SharedCommand>| {
            let refusals = commands.iter().map(|command| refusal(&room, command)).collect();
            without_refused(refusals, commands, take).now_or_never().expect("nothing to wait for")
        };
        assert_eq!(answer(vec![set(), delete("a")]), [Ok(b"set".to_vec()), Ok(b"a".to_vec())]);

        let lines = RoomLines { read_only: 80, resume: 100 };
        room.note(Measured { free_bytes: 1, total_bytes: 1_000, read_only: true }, lines);
        let shortage = Shortage { node: "n".into(), free_bytes: 1, needed_bytes: 100 };
        let refused = || Err(ProposeError::OutOfSpace(shortage.clone()));
        let answers = answer(vec![set(), delete("a"), set(), delete("b")]);
        assert_eq!(answers, [refused(), Ok(b"a".to_vec()), refused(), Ok(b"b".to_vec())]);
        let nothing_left = |_| async { panic!("handed on") };
        let answers: Vec<Result<(), _>> =
            without_refused(vec![Some(shortage.clone())], vec![set()], nothing_left)
                .now_or_never()
                .expect("nothing to wait for");
        assert_eq!(answers, [Err(ProposeError::OutOfSpace(shortage.clone()))]);
    }
}
