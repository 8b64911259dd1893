//! The loop of one run: waits for sockets and for the clock, sends what is due, counts what comes back.
//!
//! One thread, no allocation for a request that succeeds. Every wait ends at the next thing that has to
//! be done, at the latest after a sweep interval.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::answer::Answer;
use crate::link::{Link, State, CONNECT_TIMEOUT};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::report::Report;
use crate::tally::{cpu_time, Tally, Window};
use crate::values::Values;
use crate::BenchError;

/// Events that one poll takes.
const EVENTS_MAX: usize = 1024;
/// What one read takes, in bytes.
const READ_BYTES: usize = 64 * 1024;
/// Pause between two looks at the connections' own deadlines.
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);
/// The same while some connection pauses or dials.
const SWEEP_INTERVAL_SHORT: Duration = Duration::from_millis(5);
/// How much longer than the longest request the end of a run may take.
const DRAIN_SLACK: Duration = Duration::from_secs(1);

/// Statuses that ask for less.
const STATUS_TOO_MANY: u16 = 429;
const STATUS_UNAVAILABLE: u16 = 503;

/// When requests are due.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// As soon as a connection is free.
    Closed,
    /// At fixed times, whether or not a connection is free.
    Open { first: Instant, rate_per_s: u64, taken: u64 },
}

impl Pace {
    /// When the next request should start; `now` in a closed loop.
    fn next(&self, now: Instant) -> Instant {
        match *self {
            Pace::Closed => now,
            Pace::Open { first, rate_per_s, taken } => {
                let nanos = u128::from(taken) * 1_000_000_000 / u128::from(rate_per_s);
                first + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
        }
    }

    fn take(&mut self) {
        if let Pace::Open { taken, .. } = self {
            *taken += 1;
        }
    }
}

/// # Errors
/// When the operating system refuses what the loop itself needs.
pub fn measure(plan: &Plan, addresses: &[SocketAddr], connections: usize) -> Result<Report, BenchError> {
    let mut engine = Engine::new(plan, addresses, connections)?;
    let mut events = Events::with_capacity(EVENTS_MAX);
    engine.connect(&mut events)?;
    engine.run(&mut events, plan, connections)
}

struct Engine {
    poll: Poll,
    links: Vec<Link>,
    /// Connections without a request, the one that waits longest first.
    free: VecDeque<usize>,
    /// Requests under way.
    busy: usize,
    pace: Pace,
    /// Nothing is sent from then on.
    send_until: Instant,
    request_timeout: Duration,
    tally: Tally,
    scratch: Vec<u8>,
    sweep_at: Instant,
    /// Some connection pauses or dials.
    unwell: bool,
}

impl Engine {
    fn new(plan: &Plan, addresses: &[SocketAddr], connections: usize) -> io::Result<Self> {
        let now = Instant::now();
        let values = plan.verify.then(|| Rc::new(Values::new(plan.keys.seed, plan.value_bytes)));
        let link = |number| Link::new(plan, addresses, number, values.as_ref());
        Ok(Self {
            poll: Poll::new()?,
            links: (0..connections).map(link).collect(),
            free: VecDeque::with_capacity(connections),
            busy: 0,
            pace: Pace::Closed,
            send_until: now,
            request_timeout: plan.request_timeout,
            // An empty window: making the connections is not measured.
            tally: Tally::new(Window { begin: now, end: now }),
            scratch: vec![0; READ_BYTES],
            sweep_at: now,
            unwell: true,
        })
    }

    /// Dials all connections and waits until each stands or has failed once.
    fn connect(&mut self, events: &mut Events) -> io::Result<()> {
        let mut now = Instant::now();
        let give_up = now + CONNECT_TIMEOUT;
        self.sweep(now);
        let dialling = |link: &Link| matches!(link.state, State::Connecting { .. });
        while now < give_up && self.links.iter().any(dialling) {
            self.turn(events, now + SWEEP_INTERVAL_SHORT)?;
            now = Instant::now();
        }
        Ok(())
    }

    fn run(&mut self, events: &mut Events, plan: &Plan, connections: usize) -> Result<Report, BenchError> {
        let mut now = Instant::now();
        let begin = now + plan.warmup;
        let window = Window { begin, end: begin + plan.duration };
        self.tally = Tally::new(window);
        self.send_until = window.end;
        if let Some(rate_per_s) = plan.rate_per_s {
            self.pace = Pace::Open { first: now, rate_per_s, taken: 0 };
        }
        let label = format!("{} over {connections} connections", plan.operation.as_str());
        let mut progress = Progress::new(&label, plan.warmup + plan.duration);
        let mut cpu_before = None;
        let mut done = 0;
        while now < window.end {
            if cpu_before.is_none() && now >= window.begin {
                cpu_before = Some(cpu_time());
            }
            self.dispatch(now);
            let phase_end = if now < window.begin { window.begin } else { window.end };
            done += self.turn(events, phase_end)?;
            now = Instant::now();
            progress.show(now, done);
        }
        let cpu = cpu_time().saturating_sub(cpu_before.unwrap_or_default());
        let unsent = self.unsent(window);
        self.drain(events)?;
        Ok(Report::new(plan, connections, &self.tally, unsent, cpu))
    }

    /// Requests of an open loop that were due within the window and found no free connection.
    fn unsent(&self, window: Window) -> u64 {
        let Pace::Open { first, rate_per_s, taken } = self.pace else { return 0 };
        let due_before = |at: Instant| {
            let nanos = at.saturating_duration_since(first).as_nanos();
            u64::try_from((nanos * u128::from(rate_per_s)).div_ceil(1_000_000_000)).unwrap_or(u64::MAX)
        };
        due_before(window.end).saturating_sub(taken.max(due_before(window.begin)))
    }

    /// Waits for the answers that are still due.
    fn drain(&mut self, events: &mut Events) -> io::Result<()> {
        let give_up = Instant::now() + self.request_timeout + DRAIN_SLACK;
        while self.busy > 0 && Instant::now() < give_up {
            self.turn(events, give_up)?;
        }
        Ok(())
    }

    /// Waits for events or for something that is due, at most until `until`, and handles all of it.
    /// Answers how many requests ended.
    fn turn(&mut self, events: &mut Events, until: Instant) -> io::Result<u64> {
        self.wait(events, until)?;
        let mut ended = 0;
        for event in events.iter() {
            let number = event.token().0;
            let ends = event.is_read_closed() || event.is_error();
            if self.on_event(number, event.is_writable(), event.is_readable() || ends, ends) {
                ended += 1;
            }
        }
        let now = Instant::now();
        if now >= self.sweep_at {
            self.sweep(now);
        }
        Ok(ended)
    }

    fn wait(&mut self, events: &mut Events, until: Instant) -> io::Result<()> {
        let now = Instant::now();
        let mut until = until.min(self.sweep_at);
        let mut pause = until.saturating_duration_since(now);
        if let (Pace::Open { .. }, false) = (self.pace, self.free.is_empty()) {
            until = until.min(self.pace.next(now));
            pause = until.saturating_duration_since(now);
            // mio waits in whole milliseconds, which would make requests of an open loop late.
            if !pause.is_zero() {
                let mut fds = [PollFd::new(self.poll.registry(), PollFlags::IN)];
                let timeout = Timespec {
                    tv_sec: i64::try_from(pause.as_secs()).unwrap_or(i64::MAX),
                    tv_nsec: i64::from(pause.subsec_nanos()),
                };
                match rustix::event::poll(&mut fds, Some(&timeout)) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => pause = Duration::ZERO,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        match self.poll.poll(events, Some(pause)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }

    /// Handles one event; whether a request ended by it.
    fn on_event(&mut self, number: usize, writable: bool, readable: bool, ends: bool) -> bool {
        let link = &mut self.links[number];
        match link.state {
            // An event of a connection that is gone.
            State::Down { .. } => false,
            State::Connecting { .. } => {
                match link.finish_dial() {
                    Ok(true) => {
                        self.free.push_back(number);
                        self.dispatch(Instant::now());
                    }
                    Ok(false) => {}
                    Err(_) => self.fail_dial(number),
                }
                false
            }
            State::Free | State::Resting { .. } => {
                // Nothing may arrive here but the end of the connection.
                if readable && link.receive(&mut self.scratch, ends).is_err() {
                    self.free.retain(|free| *free != number);
                    self.hang_up(number, Instant::now(), true);
                }
                false
            }
            State::Busy { started, .. } => {
                let result = if writable { link.flush() } else { Ok(()) };
                let result = match result {
                    Ok(()) if readable => link.receive(&mut self.scratch, ends),
                    Ok(()) => Ok(None),
                    Err(error) => Err(error),
                };
                match result {
                    Ok(Some(answer)) => self.on_answer(number, started, answer),
                    Ok(None) => return false,
                    Err(error) => self.fail_request(number, started, &error),
                }
                true
            }
        }
    }

    fn on_answer(&mut self, number: usize, started: Instant, answer: Answer) {
        let now = Instant::now();
        self.busy -= 1;
        let link = &mut self.links[number];
        if answer.succeeded() {
            link.well();
            self.tally.succeed(started, now);
        } else {
            self.tally.fail(started, now, &link.code(answer));
        }
        if answer.closes {
            self.hang_up(number, now, true);
        } else if matches!(answer.status, STATUS_TOO_MANY | STATUS_UNAVAILABLE) {
            link.rest(now);
            self.sweep_soon(now);
        } else {
            link.state = State::Free;
            self.free.push_back(number);
        }
        self.dispatch(now);
    }

    /// Sends what is due over the connections that are free.
    fn dispatch(&mut self, now: Instant) {
        if now >= self.send_until {
            return;
        }
        while let Some(number) = self.free.front().copied() {
            let started = self.pace.next(now);
            if started > now {
                return;
            }
            self.pace.take();
            self.free.pop_front();
            self.busy += 1;
            if let Err(error) = self.links[number].send(started, now + self.request_timeout) {
                self.fail_request(number, started, &error);
            }
        }
    }

    fn fail_request(&mut self, number: usize, started: Instant, error: &io::Error) {
        let now = Instant::now();
        let name = match error.kind() {
            ErrorKind::InvalidData => "malformed",
            ErrorKind::TimedOut => "timeout",
            _ => "closed",
        };
        self.busy -= 1;
        self.tally.fail(started, now, name);
        self.hang_up(number, now, false);
    }

    /// A dial that failed counts as a request: without it one would have been sent.
    fn fail_dial(&mut self, number: usize) {
        let now = Instant::now();
        self.tally.fail(now, now, "connect");
        self.hang_up(number, now, false);
    }

    fn hang_up(&mut self, number: usize, now: Instant, orderly: bool) {
        self.links[number].hang_up(now, orderly);
        self.sweep_soon(now);
    }

    fn sweep_soon(&mut self, now: Instant) {
        self.unwell = true;
        self.sweep_at = self.sweep_at.min(now + SWEEP_INTERVAL_SHORT);
    }

    /// Looks at the deadline of every connection.
    fn sweep(&mut self, now: Instant) {
        self.unwell = false;
        for number in 0..self.links.len() {
            match self.links[number].state {
                State::Free => {}
                State::Busy { started, until } if now >= until => {
                    self.fail_request(number, started, &ErrorKind::TimedOut.into());
                }
                State::Connecting { until } if now >= until => self.fail_dial(number),
                State::Down { until } if now >= until => {
                    self.unwell = true;
                    if self.links[number].dial(self.poll.registry(), Token(number), now).is_err() {
                        self.fail_dial(number);
                    }
                }
                State::Resting { until } if now >= until => {
                    self.links[number].state = State::Free;
                    self.free.push_back(number);
                }
                State::Busy { .. } => {}
                State::Connecting { .. } | State::Down { .. } | State::Resting { .. } => self.unwell = true,
            }
        }
        self.sweep_at = now + if self.unwell { SWEEP_INTERVAL_SHORT } else { SWEEP_INTERVAL };
        self.dispatch(now);
    }
}
