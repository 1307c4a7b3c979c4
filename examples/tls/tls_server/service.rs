//! One connection, from its first byte to its last, as a job. The code reads as if the connection had a thread.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Shutdown, TcpStream};
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use asyncjob::io::Pausing;
use asyncjob::scheduler::JoinHandle;
use asyncjob::time::with_timeout;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::Options;
use super::counters::Counters;
use super::debug;
use super::http::{self, Failure, Request};
use super::identity::Identity;
use super::signer::SlowKey;

type Tls = StreamOwned<ServerConnection, Pausing<TcpStream>>;

/// What all connections share.
pub(crate) struct Service {
    pub(crate) counters: Totals,
    pub(crate) connections: Connections,
    tls: Arc<ServerConfig>,
    handshake_timeout: Duration,
    idle_timeout: Duration,
}

impl Service {
    pub(crate) fn new(options: &Options) -> Result<Self, Box<dyn Error>> {
        let counters = Totals(Arc::new(Counters::new()));
        let identity = Identity::new(options.key)?;
        let key = SlowKey::new(options, &identity.key, counters.clone())?;
        let certified = CertifiedKey::new(vec![identity.certificate], Arc::new(key));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(OneKey(Arc::new(certified))));
        Ok(Service {
            counters,
            connections: Connections::default(),
            tls: Arc::new(tls),
            handshake_timeout: options.handshake_timeout,
            idle_timeout: options.idle_timeout,
        })
    }

    /// Serves a connection from its first byte to its last.
    fn serve(&self, id: u64, socket: Pausing<TcpStream>) {
        let _ = socket.get_ref().set_nodelay(true);
        let _peer = debug::peer(&socket);
        let Some(mut stream) = self.handshake(socket) else {
            return;
        };
        match self.requests(id, &mut stream) {
            Ok(()) => {}
            Err(_) => self.counters.broken.add(1),
        }
        self.close(stream.into_inner());
    }

    fn handshake(&self, mut socket: Pausing<TcpStream>) -> Option<BufReader<Tls>> {
        let mut tls = ServerConnection::new(Arc::clone(&self.tls)).ok()?;
        // The timeout covers every pause inside the closure: the reads, the writes, and the signature.
        let handshake = with_timeout(self.handshake_timeout, || tls.complete_io(&mut socket));
        match handshake {
            Ok(_) => self.counters.handshakes.add(1),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                self.counters.handshakes_timed_out.add(1);
                return None;
            }
            Err(_) => {
                self.counters.handshakes_failed.add(1);
                return None;
            }
        }
        socket.set_write_timeout(Some(self.idle_timeout));
        Some(BufReader::with_capacity(1024, StreamOwned::new(tls, socket)))
    }

    /// Answers requests until the client or the server ends the connection.
    fn requests(&self, id: u64, stream: &mut BufReader<Tls>) -> io::Result<()> {
        for number in 1.. {
            let read = with_timeout(self.idle_timeout, || {
                // A client's first request is answered even while the server drains.
                let go_on = number == 1 || self.connections.set_idle(id);
                if !go_on {
                    return Err(Failure::Closed);
                }
                let first = stream.fill_buf().map(<[u8]>::is_empty);
                self.connections.set_busy(id);
                match first? {
                    true => Err(Failure::Closed),
                    false => http::read_request(stream),
                }
            });
            let mut request = match read {
                Ok(request) => request,
                Err(Failure::Closed) => return Ok(()),
                Err(Failure::Io(_)) if self.connections.is_draining() => return Ok(()),
                Err(Failure::Io(error)) => return Err(error),
                Err(Failure::Bad(status)) => return self.refuse(stream, status),
            };
            request.keep_alive &= !self.connections.is_draining();
            self.counters.requests.add(1);
            let (status, body) = self.page(&request, stream.get_ref(), number);
            http::respond(stream.get_mut(), status, Some(&request), &body)?;
            if !request.keep_alive {
                return Ok(());
            }
        }
        Ok(())
    }

    fn page(&self, request: &Request, stream: &Tls, number: u32) -> (&'static str, String) {
        match request.path.as_str() {
            "/" => {
                let version = stream.conn.protocol_version();
                let version = version.and_then(|v| v.as_str()).unwrap_or("TLS");
                let job = asyncjob::current_job_id().map_or(String::new(), |id| format!(" in job {id}"));
                let body = format!("Request {number} of this connection, over {version}{job}.\n");
                ("200 OK", body)
            }
            "/stats" => ("200 OK", self.counters.to_string()),
            path if path.starts_with("/debug/") && debug::is_allowed(&stream.sock) => debug::page(path),
            _ => ("404 Not Found", "The pages are / and /stats.\n".to_owned()),
        }
    }

    /// Answers with an error status, and waits until the client could read it. If the server closed the socket with
    /// unread input, the kernel would reset the connection and the client might lose the answer.
    fn refuse(&self, stream: &mut BufReader<Tls>, status: &'static str) -> io::Result<()> {
        self.counters.requests.add(1);
        self.counters.bad_requests.add(1);
        http::respond(stream.get_mut(), status, None, &format!("{status}\n"))?;
        let tls = stream.get_mut();
        tls.conn.send_close_notify();
        tls.conn.complete_io(&mut tls.sock)?;
        tls.sock.get_ref().shutdown(Shutdown::Write)?;
        let _ = with_timeout(Duration::from_secs(1), || {
            io::copy(&mut (&tls.sock).take(1 << 16), &mut io::sink())
        });
        Ok(())
    }

    fn close(&self, mut tls: Tls) {
        tls.conn.send_close_notify();
        while tls.conn.wants_write() && tls.conn.write_tls(&mut tls.sock).is_ok_and(|written| written > 0) {}
    }
}

/// The open connections. The server looks through them when it stops, to close those that are idle.
#[derive(Default)]
pub(crate) struct Connections(Mutex<Table>);

#[derive(Default)]
struct Table {
    next_id: u64,
    live: HashMap<u64, Connection>,
    draining: bool,
    /// The waker of the accept job, if it waits for a connection to end.
    waiter: Option<Waker>,
}

#[derive(Default)]
struct Connection {
    /// Whether the connection waits between two requests. Closing it then loses nothing.
    idle: bool,
    /// `None` until it has been spawned.
    job: Option<JoinHandle<()>>,
}

impl Connections {
    pub(crate) fn count(&self) -> usize {
        self.table().live.len()
    }

    /// Adds a connection. Dropping the slot removes the connection.
    pub(crate) fn add(&self, service: &Arc<Service>) -> ConnectionSlot {
        let mut table = self.table();
        table.next_id += 1;
        let id = table.next_id;
        table.live.insert(id, Connection::default());
        drop(table);
        service.counters.live.up();
        ConnectionSlot {
            id,
            service: Arc::clone(service),
        }
    }

    /// Stores the handle of a connection's job.
    pub(crate) fn started(&self, id: u64, job: JoinHandle<()>) {
        // A job on another thread may have ended already.
        if let Some(connection) = self.table().live.get_mut(&id) {
            connection.job = Some(job);
        }
    }

    /// Ready when there are fewer connections than `limit`.
    pub(crate) fn fewer_than(&self, limit: usize) -> impl Future<Output = ()> {
        poll_fn(move |task| {
            let mut table = self.table();
            if table.live.len() < limit {
                return Poll::Ready(());
            }
            table.waiter = Some(task.waker().clone());
            Poll::Pending
        })
    }

    /// Starts to drain: idle connections end now, others end after their current request.
    pub(crate) fn close_idle(&self) {
        let mut table = self.table();
        table.draining = true;
        for connection in table.live.values().filter(|connection| connection.idle) {
            if let Some(job) = &connection.job {
                job.request_cancel();
            }
        }
    }

    fn is_draining(&self) -> bool {
        self.table().draining
    }

    /// Marks the connection as idle. Returns `false` if the server drains: then the connection must end by itself,
    /// because `close_idle` has already run.
    fn set_idle(&self, id: u64) -> bool {
        let mut table = self.table();
        let draining = table.draining;
        if let Some(connection) = table.live.get_mut(&id) {
            connection.idle = true;
        }
        !draining
    }

    fn set_busy(&self, id: u64) {
        if let Some(connection) = self.table().live.get_mut(&id) {
            connection.idle = false;
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// The entry of a connection in the table. It is removed when the slot is dropped.
pub(crate) struct ConnectionSlot {
    id: u64,
    service: Arc<Service>,
}

impl ConnectionSlot {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn serve(self, socket: Pausing<TcpStream>) {
        self.service.serve(self.id, socket);
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.service.counters.live.down();
        let mut table = self.service.connections.table();
        let removed = table.live.remove(&self.id);
        let waiter = table.waiter.take();
        drop(table);
        drop(removed);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

/// The counters, in a type that is `Debug`, as rustls requires of a key.
#[derive(Clone)]
pub(crate) struct Totals(pub(crate) Arc<Counters>);

impl Deref for Totals {
    type Target = Counters;
    fn deref(&self) -> &Counters {
        &self.0
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Totals")
    }
}

/// Presents the same certificate for every name.
#[derive(Debug)]
struct OneKey(Arc<CertifiedKey>);

impl ResolvesServerCert for OneKey {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
