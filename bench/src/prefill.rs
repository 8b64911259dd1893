//! Writes every key once before a measurement, so that reads find something.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::answer::{Answer, Decoder};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::template::Template;
use crate::values::Values;
use crate::BenchError;

/// Pairs of one request.
const PAIRS: u64 = 100;
/// Most bytes of the values of one request; the server takes 4 MiB.
const VALUES_BYTES_MAX: u64 = 2 << 20;
/// Attempts at one request before giving up.
const ATTEMPTS_MAX: u32 = 20;
/// Pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(250);
const READ_BYTES: usize = 16 * 1024;

/// # Errors
/// [`BenchError::Prefill`] when some keys could not be written.
pub fn write_all_keys(plan: &Plan, addresses: &[SocketAddr]) -> Result<(), BenchError> {
    let values = Values::new(plan.keys.seed, plan.value_bytes);
    let per_request = (VALUES_BYTES_MAX / (plan.value_bytes as u64).max(1)).clamp(1, PAIRS);
    let mut progress = Progress::counting("writing all keys", plan.keys.count);
    let mut connection = None;
    let mut first = 0;
    while first < plan.keys.count {
        let pairs = per_request.min(plan.keys.count - first);
        let request = Template::pairs(&plan.endpoints[0], first..first + pairs, &values);
        let mut reason = String::new();
        let written = (0..ATTEMPTS_MAX).any(|attempt| {
            if attempt > 0 {
                thread::sleep(PAUSE);
            }
            let address = addresses[attempt as usize % addresses.len()];
            match exchange(&mut connection, address, plan.request_timeout, request.bytes()) {
                Ok(None) => true,
                Ok(Some(code)) => {
                    reason = code;
                    false
                }
                Err(error) => {
                    connection = None;
                    reason = error.to_string();
                    false
                }
            }
        });
        if !written {
            let written = first;
            return Err(BenchError::Prefill(format!("after {written} of {}: {reason}", plan.keys.count)));
        }
        first += pairs;
        progress.show(Instant::now(), first);
    }
    Ok(())
}

/// Sends one request; `None` when it succeeded, else the code of the failure.
fn exchange(
    connection: &mut Option<TcpStream>,
    address: SocketAddr,
    timeout: Duration,
    request: &[u8],
) -> io::Result<Option<String>> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect_timeout(&address, timeout)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            stream
        }
    };
    stream.write_all(request)?;
    let mut decoder = Decoder::default();
    let mut bytes = vec![0; READ_BYTES];
    let answer: Answer = loop {
        let count = stream.read(&mut bytes)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = decoder.take(&bytes[..count]);
        if let Some(answer) = taken.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            break answer;
        }
    };
    if !answer.succeeded() {
        // Another node may do better: the next attempt dials anew.
        return Ok(Some(decoder.code(answer)));
    }
    if !answer.closes {
        *connection = Some(stream);
    }
    Ok(None)
}
