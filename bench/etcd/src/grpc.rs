//! A closed loop over gRPC: every client is a task of one thread, spread over several channels.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, Error, GetOptions, KvClient, Txn, TxnOp};
use tokio::task::LocalSet;
use vaultdb_bench::{
    cpu_time, digits, value_text, Keys, Operation, Plan, Report, Rng, Tally, Values, Window, PAIRS_MAX,
};

/// Longest wait for a channel to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause of a client after a failure.
const PAUSE: Duration = Duration::from_millis(10);
/// Name of the error that an answer other than the one expected is.
const WRONG_VALUE: &str = "wrong_value";

/// `serializable`: reads are answered by the node alone, without asking a quorum.
///
/// # Errors
/// When no channel can be made, or the keys cannot be written first.
pub fn measure(plan: &Plan, clients: usize, channels: usize, serializable: bool) -> Result<Report, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("runtime: {error}"))?;
    LocalSet::new().block_on(&runtime, load(plan, clients, channels.clamp(1, clients), serializable))
}

async fn load(plan: &Plan, clients: usize, channels: usize, serializable: bool) -> Result<Report, String> {
    let endpoint = &plan.endpoints[0];
    let mut opened = Vec::with_capacity(channels);
    for _ in 0..channels {
        let options =
            ConnectOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout(plan.request_timeout);
        let client = Client::connect([endpoint], Some(options)).await;
        opened.push(client.map_err(|error| format!("{endpoint}: {error}"))?.kv_client());
    }
    let values = Rc::new(Values::new(plan.keys.seed, plan.value_bytes));
    if plan.prefill {
        write_all_keys(&mut opened[0], plan.keys.count, &values)
            .await
            .map_err(|error| format!("prefill: {error}"))?;
    }
    let begin = Instant::now() + plan.warmup;
    let window = Window { begin, end: begin + plan.duration };
    let tally = Rc::new(RefCell::new(Tally::new(window)));
    let tasks: Vec<_> = (0..clients)
        .map(|number| {
            let client = opened[number % channels].clone();
            let value = value_text(&mut Rng::new(plan.keys.seed ^ number as u64), plan.value_bytes);
            let load = Load {
                client,
                keys: Keys::new(&plan.keys, number as u64),
                value: value.into_bytes(),
                operation: plan.operation,
                values: Rc::clone(&values),
                expected: Vec::new(),
                serializable,
            };
            tokio::task::spawn_local(load.run(window, Rc::clone(&tally)))
        })
        .collect();
    tokio::time::sleep_until(window.begin.into()).await;
    let cpu_before = cpu_time();
    tokio::time::sleep_until(window.end.into()).await;
    let cpu = cpu_time().saturating_sub(cpu_before);
    for task in tasks {
        task.await.map_err(|error| error.to_string())?;
    }
    let tally = tally.borrow();
    Ok(Report::new(plan, clients, &tally, 0, cpu))
}

async fn write_all_keys(client: &mut KvClient, count: u64, values: &Values) -> Result<(), Error> {
    let mut value = Vec::new();
    for first in (0..count).step_by(PAIRS_MAX) {
        let keys = first..count.min(first + PAIRS_MAX as u64);
        let puts: Vec<_> = keys
            .map(|key| {
                values.write(key, &mut value);
                TxnOp::put(digits(key), value.clone(), None)
            })
            .collect();
        client.txn(Txn::new().and_then(puts)).await?;
    }
    Ok(())
}

/// One client.
struct Load {
    client: KvClient,
    keys: Keys,
    value: Vec<u8>,
    operation: Operation,
    /// What reads must answer.
    values: Rc<Values>,
    expected: Vec<u8>,
    serializable: bool,
}

impl Load {
    async fn run(mut self, window: Window, tally: Rc<RefCell<Tally>>) {
        let mut started = Instant::now();
        while started < window.end {
            let result = self.request().await;
            let ended = Instant::now();
            match result {
                Ok(()) => tally.borrow_mut().succeed(started, ended),
                Err(name) => {
                    tally.borrow_mut().fail(started, ended, &name);
                    tokio::time::sleep(PAUSE).await;
                }
            }
            started = Instant::now();
        }
    }

    /// # Errors
    /// Under which name the failure counts.
    async fn request(&mut self) -> Result<(), String> {
        match self.operation {
            Operation::Batch { pairs } => {
                // etcd refuses a transaction that names a key twice.
                let keys = self.keys.draw_many(pairs);
                let puts: Vec<_> =
                    keys.map(|key| TxnOp::put(digits(key), self.value.clone(), None)).collect();
                self.client.txn(Txn::new().and_then(puts)).await.map(drop).map_err(|error| name_of(&error))
            }
            Operation::Get => {
                let key = self.keys.draw();
                self.values.write(key, &mut self.expected);
                let options = self.serializable.then(|| GetOptions::new().with_serializable());
                let answer = self.client.get(digits(key), options).await.map_err(|error| name_of(&error))?;
                match answer.kvs() {
                    [found] if found.value() == self.expected => Ok(()),
                    _ => Err(WRONG_VALUE.to_owned()),
                }
            }
            Operation::Put | Operation::Mixed { .. } => {
                let put = self.client.put(digits(self.keys.draw()), self.value.clone(), None).await;
                put.map(drop).map_err(|error| name_of(&error))
            }
        }
    }
}

fn name_of(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => format!("grpc_{:?}", status.code()).to_lowercase(),
        _ => "transport".to_owned(),
    }
}
