//! One connection: its state, the request under way, the answer that arrives.
//!
//! Owns a socket that never blocks. Decides nothing about what is sent when or what is counted.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream as BlockingStream, ToSocketAddrs};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::answer::{Answer, Decoder};
use crate::keys::Keys;
use crate::plan::{Ack, Operation, Plan, Protocol};
use crate::template::{value_text, Template};
use crate::values::Values;
use crate::Rng;

/// Longest wait for a connection to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Shortest pause of a connection after a setback: doubled with each further one in a row.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// Longest such pause.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not connected; dials at that time.
    Down {
        until: Instant,
    },
    Connecting {
        until: Instant,
    },
    /// Waits for a request to send.
    Free,
    /// A request is under way: when its time began to count, and when it has taken too long.
    Busy {
        started: Instant,
        until: Instant,
    },
    /// Connected, but the server asked for less.
    Resting {
        until: Instant,
    },
}

pub struct Link {
    address: SocketAddr,
    stream: Option<TcpStream>,
    pub state: State,
    decoder: Decoder,
    keys: Keys,
    values: Option<Rc<Values>>,
    operation: Operation,
    write: Template,
    read: Template,
    /// Which of the two is under way.
    reading: bool,
    /// Bytes of the request that the kernel has taken.
    sent: usize,
    /// Failures in a row that called for a pause.
    setbacks: u32,
}

impl Link {
    /// The connection with this number, not yet dialled. `values`: what reads must answer.
    pub fn new(plan: &Plan, addresses: &[SocketAddr], number: usize, values: Option<&Rc<Values>>) -> Self {
        let at = number % addresses.len();
        let host = &plan.endpoints[at];
        let value = value_text(&mut Rng::new(plan.keys.seed ^ number as u64), plan.value_bytes);
        let ack = match plan.ack {
            Ack::Majority => "",
            Ack::Leader => "?ack=leader",
        };
        let consistency = plan.consistency.map(|level| format!("?consistency={level}")).unwrap_or_default();
        let write = match (plan.protocol, plan.operation) {
            (Protocol::EtcdJson, _) => Template::etcd_put(host, &value),
            (Protocol::VaultDb, Operation::Batch { pairs }) => Template::batch(host, ack, &value, pairs),
            (Protocol::VaultDb, _) => Template::put(host, ack, &value),
        };
        Self {
            address: addresses[at],
            stream: None,
            state: State::Down { until: Instant::now() },
            decoder: Decoder::default(),
            keys: Keys::new(&plan.keys, number as u64),
            values: values.cloned(),
            operation: plan.operation,
            write,
            read: Template::get(host, &consistency),
            reading: false,
            sent: 0,
            setbacks: 0,
        }
    }

    /// # Errors
    /// When no connection can even be begun.
    pub fn dial(&mut self, registry: &Registry, token: Token, now: Instant) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        self.state = State::Connecting { until: now + CONNECT_TIMEOUT };
        Ok(())
    }

    /// After an event: whether the connection that was dialled stands.
    ///
    /// # Errors
    /// Why it could not be made.
    pub fn finish_dial(&mut self) -> io::Result<bool> {
        let stream = self.stream.as_ref().ok_or(ErrorKind::NotConnected)?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
            Err(error) => return Err(error),
        }
        // Each request is sent whole: waiting for more bytes would only add latency.
        stream.set_nodelay(true)?;
        self.state = State::Free;
        Ok(true)
    }

    /// Begins the next request.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn send(&mut self, started: Instant, until: Instant) -> io::Result<()> {
        self.reading = match self.operation {
            Operation::Get => true,
            Operation::Put | Operation::Batch { .. } => false,
            Operation::Mixed { read_percent } => self.keys.chance(read_percent),
        };
        let request = if self.reading { &mut self.read } else { &mut self.write };
        self.decoder.reset();
        match &self.values {
            None => request.patch(self.keys.draw_many(self.operation.pairs())),
            Some(values) => {
                let key = self.keys.draw();
                request.patch([key]);
                self.decoder.expect(|out| values.write(key, out));
            }
        }
        self.sent = 0;
        self.state = State::Busy { started, until };
        self.flush()
    }

    /// Hands the kernel what it has not taken yet; what it does not take waits for the next event.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn flush(&mut self) -> io::Result<()> {
        let stream = self.stream.as_mut().ok_or(ErrorKind::NotConnected)?;
        let bytes = if self.reading { self.read.bytes() } else { self.write.bytes() };
        while self.sent < bytes.len() {
            match stream.write(&bytes[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads everything that is there. `ends`: the event said that the server has closed its side.
    ///
    /// # Errors
    /// When the connection is broken or what it carries is no answer.
    pub fn receive(&mut self, scratch: &mut [u8], ends: bool) -> io::Result<Option<Answer>> {
        let stream = self.stream.as_mut().ok_or(ErrorKind::NotConnected)?;
        let mut answer = None;
        loop {
            let count = match stream.read(scratch) {
                // An answer that came before the end counts.
                Ok(0) if answer.is_some() => break,
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if answer.is_some() || !matches!(self.state, State::Busy { .. }) {
                return Err(io::Error::new(ErrorKind::InvalidData, "an answer to no request"));
            }
            let taken = self.decoder.take(&scratch[..count]);
            answer = taken.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            // A read that did not fill the buffer has emptied the socket; whatever comes later brings
            // an event of its own (epoll(7), questions 9 and 10).
            if count < scratch.len() && !ends {
                break;
            }
        }
        Ok(answer.map(|answer| Answer { closes: answer.closes || ends, ..answer }))
    }

    /// Name of the failure that was just answered.
    pub fn code(&self, answer: Answer) -> String {
        self.decoder.code(answer)
    }

    pub fn well(&mut self) {
        self.setbacks = 0;
    }

    /// Pauses, still connected.
    pub fn rest(&mut self, now: Instant) {
        self.state = State::Resting { until: now + self.backoff() };
    }

    /// Drops the connection; it is dialled again after a pause, or at once after an orderly end.
    pub fn hang_up(&mut self, now: Instant, orderly: bool) {
        self.stream = None;
        self.decoder.reset();
        let pause = if orderly { Duration::ZERO } else { self.backoff() };
        self.state = State::Down { until: now + pause };
    }

    fn backoff(&mut self) -> Duration {
        let pause = BACKOFF_MIN.saturating_mul(1 << self.setbacks.min(16)).min(BACKOFF_MAX);
        self.setbacks = self.setbacks.saturating_add(1);
        pause
    }
}

/// One address for each endpoint: the first of its name's that accepts a connection, or its first.
///
/// # Errors
/// The last reason, when no endpoint can be reached at all.
pub fn resolve(endpoints: &[String]) -> Result<Vec<SocketAddr>, String> {
    let mut addresses = Vec::with_capacity(endpoints.len());
    let mut reached = false;
    let mut reason = String::new();
    for endpoint in endpoints {
        let found: Vec<_> =
            endpoint.to_socket_addrs().map_err(|error| format!("{endpoint}: {error}"))?.collect();
        let accepts = |address: &&SocketAddr| match BlockingStream::connect_timeout(address, CONNECT_TIMEOUT)
        {
            Ok(_) => true,
            Err(error) => {
                reason = format!("{endpoint}: {error}");
                false
            }
        };
        let first = found.first().copied().ok_or_else(|| format!("{endpoint}: it has no address"))?;
        let accepting = found.iter().find(accepts).copied();
        reached |= accepting.is_some();
        addresses.push(accepting.unwrap_or(first));
    }
    if reached {
        Ok(addresses)
    } else {
        Err(reason)
    }
}
