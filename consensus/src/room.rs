//! What a leader does with writes of its peers while its own disk is nearly full.
//!
//! Only for what comes over the Raft port: a node asks itself before it takes a write in. Invariant: what is refused
//! here has reached no log, and every command is answered in its place.

use std::future::Future;

use vaultdb_kv::Shortage;

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
        match self.room.shortage() {
            // Where another leads, it is asked: its room is what counts.
            Some(shortage) if self.leadership().is_local => without_growth(&shortage, commands, take).await,
            Some(_) | None => take(commands.into_iter()).await,
        }
    }
}

async fn without_growth<T, F>(
    shortage: &Shortage,
    commands: Vec<SharedCommand>,
    take: impl FnOnce(std::vec::IntoIter<SharedCommand>) -> F,
) -> Vec<Result<T, ProposeError>>
where
    F: Future<Output = Vec<Result<T, ProposeError>>>,
{
    let grows: Vec<bool> = commands.iter().map(|command| command.0.grows()).collect();
    let taken: Vec<_> = commands.into_iter().filter(|command| !command.0.grows()).collect();
    let mut answers = match taken.is_empty() {
        true => Vec::new(),
        false => take(taken.into_iter()).await,
    }
    .into_iter();
    let unanswered = || Err(ProposeError::Unknown { reason: "consensus gave no answer".into() });
    grows
        .into_iter()
        .map(|grows| match grows {
            true => Err(ProposeError::OutOfSpace(shortage.clone())),
            false => answers.next().unwrap_or_else(unanswered),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;
    use vaultdb_kv::{Command, Key};

    use super::*;

    /// What grows is refused in its place, the rest is handed on in its order, and nothing is handed on when nothing is
    /// left.
    #[test]
    fn each_command_has_its_own_answer() {
        let shortage = Shortage { node: "n".into(), free_bytes: 1, needed_bytes: 2 };
        let set = || SharedCommand::new(Arc::new(Command::Set { pairs: vec![] }));
        let delete = |key: &str| {
            let key = Key::new(key.to_owned()).expect("a key");
            SharedCommand::new(Arc::new(Command::Delete { key }))
        };
        let take = |commands: std::vec::IntoIter<SharedCommand>| async move {
            commands
                .map(|command| match &*command.0 {
                    Command::Delete { key } => Ok(key.as_bytes().to_vec()),
                    other => panic!("{other:?} was handed on"),
                })
                .collect()
        };
        let answer =
            |commands| without_growth(&shortage, commands, take).now_or_never().expect("nothing to wait for");
        let refused = || Err(ProposeError::OutOfSpace(shortage.clone()));
        let answers = answer(vec![set(), delete("a"), set(), delete("b")]);
        assert_eq!(answers, [refused(), Ok(b"a".to_vec()), refused(), Ok(b"b".to_vec())]);
        let nothing_left = |_| async { panic!("handed on") };
        let answers: Vec<Result<(), _>> =
            without_growth(&shortage, vec![set()], nothing_left).now_or_never().expect("nothing to wait for");
        assert_eq!(answers, [Err(ProposeError::OutOfSpace(shortage.clone()))]);
    }
}
