//! A network of pipes in memory. A cut ends the connections between two nodes and refuses new ones; a mute
//! direction holds back what is sent that way.

use std::collections::{HashMap, HashSet};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tokio::io::{duplex, split, AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, watch};
use vaultdb_consensus::transport::{Accept, Connection, Dial};

/// Bytes that a pipe holds before its writer waits.
const PIPE_BYTES: usize = 1 << 20;

type Edge = (String, String);

#[derive(Default)]
struct State {
    listeners: HashMap<String, mpsc::UnboundedSender<DuplexStream>>,
    cut: HashSet<Edge>,
    /// From whom to whom nothing gets through.
    mute: HashSet<(String, String)>,
}

pub struct Pipes {
    state: Mutex<State>,
    /// Counts changes of the cuts and mutes; each connection looks again when it changes.
    changed: watch::Sender<u64>,
}

fn edge(a: &str, b: &str) -> Edge {
    if a < b {
        (a.to_owned(), b.to_owned())
    } else {
        (b.to_owned(), a.to_owned())
    }
}

impl Pipes {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: watch::channel(0).0 })
    }

    pub fn cut(&self, a: &str, b: &str) {
        self.state.lock().unwrap().cut.insert(edge(a, b));
        self.changed.send_modify(|n| *n += 1);
    }

    /// What is sent from now on arrives after [`Pipes::heal`], on connections that last until then.
    pub fn mute(&self, from: &str, to: &str) {
        self.state.lock().unwrap().mute.insert((from.to_owned(), to.to_owned()));
        self.changed.send_modify(|n| *n += 1);
    }

    pub fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        state.cut.clear();
        state.mute.clear();
        drop(state);
        self.changed.send_modify(|n| *n += 1);
    }

    pub fn listen(&self, addr: &str) -> Box<dyn Accept> {
        let (tx, rx) = mpsc::unbounded_channel();
        self.state.lock().unwrap().listeners.insert(addr.to_owned(), tx);
        Box::new(Listener(rx))
    }

    pub fn dialler(self: &Arc<Self>, from: &str) -> Arc<dyn Dial> {
        Arc::new(Dialler { pipes: self.clone(), from: from.to_owned() })
    }

    fn is_cut(&self, edge: &Edge) -> bool {
        self.state.lock().unwrap().cut.contains(edge)
    }

    fn is_mute(&self, way: &(String, String)) -> bool {
        self.state.lock().unwrap().mute.contains(way)
    }
}

struct Dialler {
    pipes: Arc<Pipes>,
    from: String,
}

impl Dial for Dialler {
    fn dial<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Connection>> {
        Box::pin(async move {
            let edge = edge(&self.from, addr);
            if self.pipes.is_cut(&edge) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "cut"));
            }
            let (near, near_end) = duplex(PIPE_BYTES);
            let (far_end, far) = duplex(PIPE_BYTES);
            {
                let state = self.pipes.state.lock().unwrap();
                let listener = state.listeners.get(addr).ok_or(io::ErrorKind::ConnectionRefused)?;
                listener.send(far).map_err(|_| io::ErrorKind::ConnectionRefused)?;
            }
            let way = (self.from.clone(), addr.to_owned());
            tokio::spawn(carry(self.pipes.clone(), way, near_end, far_end));
            let (read, write) = split(near);
            Ok(Connection { read: Box::new(read), write: Box::new(write) })
        })
    }
}

/// One end of a connection. Looks for a cut or a mute before each read, so that nothing crosses that was sent after
/// the cut was made: being woken by it would come too late for what is already there.
struct End {
    pipes: Arc<Pipes>,
    edge: Edge,
    /// From whom to whom goes what is read here.
    way: (String, String),
    stream: DuplexStream,
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.pipes.is_cut(&self.edge) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.pipes.is_mute(&self.way) {
            // Asked again at the next change.
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn carry(pipes: Arc<Pipes>, way: (String, String), near: DuplexStream, far: DuplexStream) {
    let mut changed = pipes.changed.subscribe();
    let edge = edge(&way.0, &way.1);
    let back = (way.1.clone(), way.0.clone());
    let end = |way, stream| End { pipes: pipes.clone(), edge: edge.clone(), way, stream };
    let (mut near, mut far) = (end(way, near), end(back, far));
    let copy = tokio::io::copy_bidirectional(&mut near, &mut far);
    tokio::pin!(copy);
    loop {
        tokio::select! {
            _ = &mut copy => return,
            _ = changed.changed() => if pipes.is_cut(&edge) { return },
        }
    }
}

struct Listener(mpsc::UnboundedReceiver<DuplexStream>);

impl Accept for Listener {
    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move {
            let stream = self.0.recv().await.ok_or(io::ErrorKind::NotConnected)?;
            let (read, write) = split(stream);
            Ok(Connection { read: Box::new(read), write: Box::new(write) })
        })
    }
}
