//! A network between the nodes of one host that can be cut link by link.
//!
//! Each node advertises the port of a proxy in place of its own. A proxy tells who dials it by the owner
//! of the dialling socket (`/proc/net/tcp` gives the inode, `/proc/<pid>/fd` the process). A cut link
//! holds its bytes and breaks nothing, as a lost route does; healed, it delivers them.

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use super::ports;

/// Pause between two looks at a cut link, and longest read before the next look.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Clone, Default)]
pub struct Links {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Process id of each node that runs.
    pids: Mutex<Vec<Option<u32>>>,
    /// Pairs of which the second hears nothing from the first.
    cut: Mutex<HashSet<(usize, usize)>>,
    /// How often all connections were broken.
    breaks: AtomicU64,
    over: AtomicBool,
}

impl Links {
    /// Opens a proxy for each of the `targets`; answers the ports to advertise, in the same order.
    pub fn open(&self, targets: &[u16]) -> Vec<u16> {
        *lock(&self.shared.pids) = vec![None; targets.len()];
        targets.iter().enumerate().map(|(node, target)| self.proxy(node, *target)).collect()
    }

    pub fn set_pid(&self, node: usize, pid: Option<u32>) {
        if let Some(slot) = lock(&self.shared.pids).get_mut(node) {
            *slot = pid;
        }
    }

    /// Cuts both directions between each of `some` and each of `others`.
    pub fn cut(&self, some: &[usize], others: &[usize]) {
        let mut cut = lock(&self.shared.cut);
        for (a, b) in some.iter().flat_map(|a| others.iter().map(|b| (*a, *b))) {
            cut.extend([(a, b), (b, a)]);
        }
    }

    /// From here on `others` hear nothing from `some`, while `some` hear them. No new connection is made
    /// between them.
    pub fn cut_one_way(&self, some: &[usize], others: &[usize]) {
        let mut cut = lock(&self.shared.cut);
        cut.extend(some.iter().flat_map(|a| others.iter().map(|b| (*a, *b))));
    }

    pub fn heal(&self) {
        lock(&self.shared.cut).clear();
    }

    /// Breaks every connection that there is now; new ones are made as before.
    pub fn break_all(&self) {
        self.shared.breaks.fetch_add(1, Ordering::Relaxed);
    }

    fn proxy(&self, node: usize, target: u16) -> u16 {
        let port = ports::free();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("port was free just now");
        listener.set_nonblocking(true).expect("a listener");
        let shared = self.shared.clone();
        thread::spawn(move || {
            while !shared.over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((dialler, _)) => shared.clone().carry(dialler, node, target),
                    Err(_) => thread::sleep(LOOK),
                }
            }
        });
        port
    }
}

impl Shared {
    /// Carries one connection in two threads of its own.
    fn carry(self: Arc<Self>, dialler: TcpStream, node: usize, target: u16) {
        thread::spawn(move || {
            let link = self.who(&dialler).map(|from| (from, node));
            let back = link.map(|(from, node)| (node, from));
            while self.holds(link) || self.holds(back) {
                thread::sleep(LOOK);
            }
            // Nobody listens: the dialler sees its connection closed.
            let Ok(listener) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { return };
            let (Ok(dialler_too), Ok(listener_too)) = (dialler.try_clone(), listener.try_clone()) else {
                return;
            };
            let shared = self.clone();
            thread::spawn(move || shared.pump(listener_too, dialler_too, back));
            self.pump(dialler, listener, link);
        });
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, link: Option<(usize, usize)>) {
        let mut chunk = [0; 64 * 1024];
        let breaks = self.breaks.load(Ordering::Relaxed);
        let timed = from.set_read_timeout(Some(LOOK * 4)).and(from.set_nonblocking(false));
        if timed.is_ok() && to.set_nodelay(true).is_ok() {
            while !self.over.load(Ordering::Relaxed) && self.breaks.load(Ordering::Relaxed) == breaks {
                let count = match from.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(error) if is_timeout(&error) => continue,
                    Err(_) => break,
                };
                while self.holds(link) {
                    thread::sleep(LOOK);
                }
                if to.write_all(&chunk[..count]).is_err() {
                    break;
                }
            }
        }
        // The other side may have closed first.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    fn holds(&self, link: Option<(usize, usize)>) -> bool {
        !self.over.load(Ordering::Relaxed) && link.is_some_and(|link| lock(&self.cut).contains(&link))
    }

    /// Which node dialled.
    fn who(&self, dialler: &TcpStream) -> Option<usize> {
        let inode = inode_of(dialler.peer_addr().ok()?.port(), dialler.local_addr().ok()?.port())?;
        let socket = format!("socket:[{inode}]");
        let pids = lock(&self.pids).clone();
        pids.iter().enumerate().find_map(|(node, pid)| {
            let entries = fs::read_dir(format!("/proc/{}/fd", (*pid)?)).ok()?;
            let owns = entries
                .flatten()
                .any(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == socket.as_str()));
            owns.then_some(node)
        })
    }
}

/// Inode of the loopback socket from port `local` to port `remote`.
fn inode_of(local: u16, remote: u16) -> Option<String> {
    let (local, remote) = (format!("0100007F:{local:04X}"), format!("0100007F:{remote:04X}"));
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&local.as_str()) && fields.get(2) == Some(&remote.as_str()))
            .then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
}

impl Links {
    /// Ends the proxies and their connections.
    pub fn close(&self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
