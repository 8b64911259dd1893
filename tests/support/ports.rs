//! Ports for the nodes of this process: never handed out twice, and never from the range from which the
//! kernel draws the local ports of outgoing connections. A port of that range can be taken by any
//! connection while its node is down, and a client that dials it then may even connect to itself.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

/// Lowest port handed out.
const FIRST: u16 = 14_000;
/// Attempts before the machine is said to have no free port.
const ATTEMPTS_MAX: usize = 10_000;

static NEXT: Mutex<Option<u16>> = Mutex::new(None);

/// One past the highest port handed out: where the kernel's own range begins.
fn end() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .filter(|first: &u16| *first > FIRST + 1_000)
        .unwrap_or(32_768)
}

/// A port of loopback that nobody listens on.
pub fn free() -> u16 {
    let mut next = NEXT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let span = u32::from(end() - FIRST);
    for _ in 0..ATTEMPTS_MAX {
        // Runs at the same time begin at different places.
        let port = next.unwrap_or_else(|| FIRST + (std::process::id().wrapping_mul(97) % span) as u16);
        *next = Some(if port + 1 >= end() { FIRST } else { port + 1 });
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on loopback");
}
