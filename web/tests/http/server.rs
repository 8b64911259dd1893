//! A listening server on a port of its own, with a fake node behind it.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use actix_web::dev::ServerHandle;
use vaultdb_web::{serve, WebOptions};

use crate::client::{Answer, Conn};
use crate::fake::Fake;

pub const WORKERS: usize = 2;

pub struct TestServer {
    pub addr: SocketAddr,
    pub fake: Fake,
    pub handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    pub fn start() -> Self {
        Self::with(|_| ())
    }

    pub fn with(change: impl FnOnce(&mut WebOptions)) -> Self {
        let fake = Fake::new();
        let mut options = WebOptions::new("node0");
        change(&mut options);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let behind = fake.clone();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let make = move || {
                    behind.0.backends.fetch_add(1, Ordering::SeqCst);
                    behind.clone()
                };
                let server = serve(listener, WORKERS, options, make).unwrap();
                tell.send(server.handle()).unwrap();
                server.await.unwrap();
            });
        });
        let handle = told.recv().unwrap();
        Self { addr, fake, handle, thread: Some(thread) }
    }

    pub fn conn(&self) -> Conn {
        Conn::open(self.addr)
    }

    /// One request on a connection of its own; checks what every answer must carry.
    pub fn call(&self, method: &str, target: &str, head: &str, body: Option<&[u8]>) -> Answer {
        let answer = self.conn().call(method, target, head, body);
        answer.check_common_headers();
        answer
    }

    pub fn get(&self, target: &str) -> Answer {
        self.call("GET", target, "", None)
    }

    pub fn put(&self, target: &str, body: impl AsRef<[u8]>) -> Answer {
        self.call("PUT", target, "", Some(body.as_ref()))
    }

    pub fn post(&self, target: &str, body: impl AsRef<[u8]>) -> Answer {
        self.call("POST", target, "", Some(body.as_ref()))
    }

    pub fn delete(&self, target: &str) -> Answer {
        self.call("DELETE", target, "", None)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.fake.hang(false);
        // The command is sent at once; the future would only wait for its end.
        drop(self.handle.stop(false));
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}
