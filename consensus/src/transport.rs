//! How bytes reach a peer: TCP, or pipes in memory that a test can cut.

use std::io;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// The two directions of a connection.
pub struct Connection {
    pub read: Box<dyn AsyncRead + Send + Unpin>,
    pub write: Box<dyn AsyncWrite + Send + Unpin>,
}

pub trait Dial: Send + Sync + 'static {
    /// # Errors
    /// When the peer is not there.
    fn dial<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Connection>>;
}

pub trait Accept: Send + 'static {
    /// Called once, on the consensus runtime, before the first `accept`.
    ///
    /// # Errors
    /// When the listener cannot be used.
    fn start(&mut self) -> io::Result<()>;
    /// # Errors
    /// When accepting fails for now; it may be tried again.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>>;
}

pub(crate) fn halves(stream: TcpStream) -> io::Result<Connection> {
    // Small frames must not wait for an acknowledgement of the one before (RFC 896).
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    Ok(Connection { read: Box::new(read), write: Box::new(write) })
}

pub struct Tcp;

impl Dial for Tcp {
    fn dial<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Connection>> {
        Box::pin(async move { halves(TcpStream::connect(addr).await?) })
    }
}

/// Bound before consensus starts, so that an address in use is reported first.
pub struct TcpAccept {
    bound: Option<std::net::TcpListener>,
    listener: Option<TcpListener>,
}

impl TcpAccept {
    pub fn new(bound: std::net::TcpListener) -> Self {
        Self { bound: Some(bound), listener: None }
    }
}

impl Accept for TcpAccept {
    fn start(&mut self) -> io::Result<()> {
        if let Some(bound) = self.bound.take() {
            bound.set_nonblocking(true)?;
            self.listener = Some(TcpListener::from_std(bound)?);
        }
        Ok(())
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move {
            let listener = self.listener.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            halves(listener.accept().await?.0)
        })
    }
}
