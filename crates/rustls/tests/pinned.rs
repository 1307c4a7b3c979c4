//! Handshakes on workers, for tasks that move between threads: acceptors have there what they have on one thread, and
//! say so when the workers have ended.

mod connections;

use std::io;
use std::sync::Arc;
use std::thread;

use asyncjob_rustls::TlsAcceptor;
use asyncjob_testing::Watchdog;
use asyncjob_tokio::{JoinError, Workers};
use connections::{Gate, Identity, alert, greeted_in_the_clear, held, localhost, looked, on_threads};
use rustls::AlertDescription;
use tokio::io::duplex;

const TLS13: &rustls::SupportedProtocolVersion = &rustls::version::TLS13;

fn workers_ended(error: &io::Error) {
    assert!(matches!(held(error), JoinError::WorkersEnded), "{error:?}");
}

#[test]
fn a_pinned_acceptor_has_what_the_one_of_tokio_rustls_has() {
    let _watchdog = Watchdog::new();
    let identity = Identity::new();
    let workers = Workers::new(1).unwrap();
    on_threads(1, async {
        let config = identity.config(identity.key.clone(), TLS13);
        let acceptor = TlsAcceptor::from(tokio_rustls::TlsAcceptor::from(Arc::clone(&config)));
        assert!(Arc::ptr_eq(acceptor.config(), &config));
        let acceptor = acceptor.pinned(&workers);
        assert!(Arc::ptr_eq(acceptor.config(), &config));

        let (near, far) = duplex(1 << 16);
        let connect = tokio::spawn(identity.client().connect(localhost(), far));
        let (look, looked) = looked();
        tokio::spawn(acceptor.accept_with(near, look)).await.unwrap().unwrap();
        connect.await.unwrap().unwrap();
        assert_ne!(looked.lock().unwrap().expect("it was called"), thread::current().id());

        let (near, _far) = greeted_in_the_clear().await;
        let accept = tokio::spawn(acceptor.accept(near).into_fallible());
        let (error, connection) = accept.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("corrupt message"), "{error}");
        connection.expect("the job has a result");

        drop(workers);
        let (near, _far) = duplex(1 << 16);
        let (error, connection) = acceptor.accept(near).into_fallible().await.unwrap_err();
        workers_ended(&error);
        assert!(connection.is_none(), "it was on its way to the workers");
    });
}

#[test]
fn a_multi_threaded_runtime_runs_its_handshakes_on_workers() {
    let _watchdog = Watchdog::new();
    let (identity, gate) = (Identity::new(), Gate::default());
    let workers = Workers::new(2).unwrap();
    let acceptor = identity.server(gate.key(), TLS13).pinned(&workers);
    on_threads(2, async {
        let mut ends = Vec::new();
        for _ in 0..4 {
            let (near, far) = duplex(1 << 16);
            let accept = tokio::spawn(acceptor.accept(near));
            ends.push((accept, tokio::spawn(identity.client().connect(localhost(), far))));
        }
        gate.asked(4).await;
        assert_eq!(workers.handle().tasks(), [2, 2], "spread over the workers");
        let (cancelled, _) = ends.pop().unwrap();
        cancelled.abort();
        cancelled.await.unwrap_err();
        while gate.waiting() > 3 {
            tokio::task::yield_now().await;
        }
        for _ in 0..4 {
            let (message, answer) = gate.take();
            let _ = answer.send(Ok(identity.sign(&message)));
        }
        for (accept, connect) in ends {
            accept.await.unwrap().unwrap();
            connect.await.unwrap().unwrap();
        }
        drop(workers);
        assert_eq!(gate.waiting(), 0);
        let (near, _far) = duplex(1 << 16);
        workers_ended(&acceptor.accept(near).await.unwrap_err());
    });
}

/// The clients are told, and the acceptor says why.
#[test]
fn workers_that_end_cancel_the_handshakes_that_are_outstanding() {
    let _watchdog = Watchdog::new();
    let (identity, gate) = (Identity::new(), Gate::default());
    let workers = Workers::new(2).unwrap();
    let acceptor = identity.server(gate.key(), TLS13).pinned(&workers);
    on_threads(1, async {
        let mut ends = Vec::new();
        for _ in 0..4 {
            let (near, far) = duplex(1 << 16);
            let connect = tokio::spawn(identity.client().connect(localhost(), far));
            ends.push((acceptor.accept(near), connect));
        }
        gate.asked(4).await;
        tokio::task::spawn_blocking(move || drop(workers)).await.unwrap();
        assert_eq!(gate.waiting(), 0);
        for (accept, connect) in ends {
            workers_ended(&accept.await.unwrap_err());
            let error = connect.await.unwrap().unwrap_err();
            assert_eq!(alert(&error), AlertDescription::InternalError);
        }
    });
}
