//! Handshakes on workers, for tasks that move between threads: acceptors and connectors have there what they have on
//! one thread, and say so when the workers have ended.

mod connections;

use std::io;
use std::sync::Arc;
use std::thread;

use asyncjob_rustls::{TlsAcceptor, TlsConnector};
use asyncjob_testing::Watchdog;
use asyncjob_tokio::{JoinError, Workers};
use connections::{
    Gate, Identity, alert, assert_on_fire, greeted_in_the_clear, held, localhost, looked, on_one_thread, on_threads,
};
use rustls::AlertDescription;
use tokio::io::{AsyncWriteExt, duplex};
use tokio::task::spawn_local;

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
fn a_pinned_connector_has_what_the_one_of_tokio_rustls_has() {
    let _watchdog = Watchdog::new();
    let identity = Identity::new();
    let workers = Workers::new(1).unwrap();
    on_threads(1, async {
        let config = identity.client_with(identity.key.clone(), TLS13);
        let connector = TlsConnector::from(tokio_rustls::TlsConnector::from(Arc::clone(&config)));
        assert!(Arc::ptr_eq(connector.config(), &config));
        let connector = connector.pinned(&workers);
        assert!(Arc::ptr_eq(connector.config(), &config));

        let (near, far) = duplex(1 << 16);
        let accept = tokio::spawn(tokio_rustls::TlsAcceptor::from(identity.wants_certificate()).accept(near));
        let (look, looked) = looked();
        let connect = connector.connect_with(localhost(), far, look);
        tokio::spawn(connect).await.unwrap().unwrap();
        accept.await.unwrap().unwrap();
        assert_ne!(looked.lock().unwrap().expect("it was called"), thread::current().id());

        let (far, _near) = greeted_in_the_clear().await;
        let connect = tokio::spawn(connector.connect(localhost(), far).into_fallible());
        let (error, connection) = connect.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("corrupt message"), "{error}");
        connection.expect("the job has a result");

        drop(workers);
        let (far, _near) = duplex(1 << 16);
        workers_ended(&connector.connect(localhost(), far).await.unwrap_err());
        let (far, _near) = duplex(1 << 16);
        let (error, connection) = connector.connect(localhost(), far).into_fallible().await.unwrap_err();
        workers_ended(&error);
        assert!(connection.is_none(), "it was on its way to the workers");
    });
}

/// The same form without workers.
#[test]
fn a_connector_gives_the_connection_of_a_failed_handshake_back() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let identity = Identity::new();
        let connector = TlsConnector::from(identity.client_with(identity.key.clone(), TLS13));
        let (far, mut near) = greeted_in_the_clear().await;
        let connect = spawn_local(connector.connect(localhost(), far).into_fallible());
        let (error, connection) = connect.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("corrupt message"), "{error}");
        let mut connection = connection.expect("the job has a result");
        connection.write_all(b"a last word").await.unwrap();
        drop(connection);
        let mut got = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut near, &mut got).await.unwrap();
        assert!(got.ends_with(b"a last word"), "{got:?}");
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

/// Of clients with a slow key. One of the signatures fails, and its server is told.
#[test]
fn a_multi_threaded_runtime_runs_its_connects_on_workers() {
    let _watchdog = Watchdog::new();
    let (identity, gate) = (Identity::new(), Gate::default());
    let workers = Workers::new(2).unwrap();
    let connector = TlsConnector::from(identity.client_with(Arc::new(gate.key()), TLS13)).pinned(&workers);
    let acceptor = tokio_rustls::TlsAcceptor::from(identity.wants_certificate());
    on_threads(2, async {
        let mut ends = Vec::new();
        for _ in 0..4 {
            let (near, far) = duplex(1 << 16);
            let connect = tokio::spawn(connector.connect(localhost(), far));
            ends.push((tokio::spawn(acceptor.accept(near)), connect));
        }
        gate.asked(4).await;
        assert_eq!(workers.handle().tasks(), [2, 2], "spread over the workers");
        gate.fail();
        (0..3).for_each(|_| gate.sign(&identity));
        let mut failed = 0;
        for (accept, connect) in ends {
            match (accept.await.unwrap(), connect.await.unwrap()) {
                (Err(told), Err(error)) => {
                    assert_on_fire(&error);
                    assert_eq!(alert(&told), AlertDescription::InternalError);
                    failed += 1;
                }
                both => drop((both.0.unwrap(), both.1.unwrap())),
            }
        }
        assert_eq!(failed, 1);
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
