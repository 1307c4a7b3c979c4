//! Handshakes whose private key is slow to reach: no other connection is blocked, and no fault of a signer or a client
//! costs more than its own handshake. The tests count, and tokio's clock is paused.

mod connections;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use asyncjob::offload::OffloadError;
use asyncjob::pool;
use asyncjob::waiting::AwaitError;
use asyncjob_rustls::{AwaitedKey, TlsConnector};
use asyncjob_testing::Watchdog;
use connections::{
    Gate, Identity, Order, SCHEME, assert_on_fire, client_hello, connect, connect_to, greeted, localhost, of_handshake,
    of_signer, offloaded, on_one_thread, panicking_key, resident_kib, until,
};
use rustls::sign::SigningKey;
use rustls::{ServerConfig, SignatureAlgorithm};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

#[test]
fn handshakes_wait_for_their_signatures_side_by_side() {
    let _watchdog = Watchdog::new();
    for version in rustls::ALL_VERSIONS {
        on_one_thread(async {
            let (identity, gate) = (Identity::new(), Gate::default());
            let (acceptor, connector) = (identity.server(gate.key(), version), identity.client());
            let ends: Vec<_> = (0..5).map(|_| connect(&acceptor, &connector)).collect();
            gate.asked(5).await;
            assert_eq!(
                (gate.waiting(), pool::stats().in_use),
                (5, 5),
                "all five handshakes wait, and this task runs"
            );
            for left in (0..5).rev() {
                gate.sign(&identity); // the last one first
                while gate.waiting() > left {
                    tokio::task::yield_now().await;
                }
            }
            for (number, (accept, connect)) in ends.into_iter().enumerate() {
                let (mut accepted, mut connected) = (accept.await.unwrap().unwrap(), connect.await.unwrap().unwrap());
                accepted.write_all(&[number as u8]).await.unwrap();
                accepted.flush().await.unwrap();
                assert_eq!(connected.read_u8().await.unwrap(), number as u8);
            }
        });
    }
}

/// Of clients with a certificate whose key is slow.
#[test]
fn connects_wait_for_their_signatures_side_by_side() {
    let _watchdog = Watchdog::new();
    for version in rustls::ALL_VERSIONS {
        on_one_thread(async {
            let (identity, gate) = (Identity::new(), Gate::default());
            let connector = TlsConnector::from(identity.client_with(Arc::new(gate.key()), version));
            let acceptor = tokio_rustls::TlsAcceptor::from(identity.wants_certificate());
            let mut ends = Vec::new();
            for _ in 0..5 {
                let (near, far) = duplex(1 << 16);
                let connect = spawn_local(connector.connect(localhost(), far));
                ends.push((spawn_local(acceptor.accept(near)), connect));
            }
            gate.asked(5).await;
            assert_eq!((gate.waiting(), pool::stats().in_use), (5, 5), "all five wait");
            for _ in 0..5 {
                gate.sign(&identity);
            }
            for (accept, connect) in ends {
                let (mut accepted, mut connected) = (accept.await.unwrap().unwrap(), connect.await.unwrap().unwrap());
                connected.write_all(b"request").await.unwrap();
                connected.shutdown().await.unwrap();
                let mut request = String::new();
                accepted.read_to_string(&mut request).await.unwrap();
                assert_eq!(request, "request");
            }
        });
    }
}

/// A connector begins a second connection for each stream that it makes. That one must leave the tickets alone.
#[test]
fn a_connector_uses_one_ticket_for_a_connection() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let identity = Identity::new();
        let config = identity.client_with(identity.key.clone(), &rustls::version::TLS13);
        let connector = TlsConnector::from(config);
        let mut server = ServerConfig::clone(&identity.wants_certificate());
        server.send_tls13_tickets = 2;
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let mut kinds = Vec::new();
        for number in 0..4 {
            let (near, far) = duplex(1 << 16);
            let accept = spawn_local(acceptor.accept(near));
            let mut connected = connector.connect(localhost(), far).await.unwrap();
            let mut accepted = accept.await.unwrap().unwrap();
            kinds.push(connected.get_ref().1.handshake_kind().unwrap());
            if number == 0 {
                // The client gets the tickets with the first byte. It reads none of the other connections.
                accepted.write_all(&[1]).await.unwrap();
                accepted.flush().await.unwrap();
                assert_eq!(connected.read_u8().await.unwrap(), 1);
            }
        }
        use rustls::HandshakeKind::{Full, Resumed};
        assert_eq!(kinds, [Full, Resumed, Resumed, Full]);
    });
}

#[test]
fn a_signer_that_fails_fails_its_handshake_only() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let (identity, gate) = (Identity::new(), Gate::default());
        let (acceptor, connector) = (identity.server(gate.key(), &rustls::version::TLS13), identity.client());
        let (accept, connect_fails) = connect(&acceptor, &connector);
        let (other_accept, other_connect) = connect(&acceptor, &connector);
        gate.asked(2).await;
        gate.sign(&identity);
        gate.fail();
        let error = accept.await.unwrap().unwrap_err();
        assert_on_fire(&error);
        connect_fails.await.unwrap().unwrap_err();
        other_accept.await.unwrap().unwrap();
        other_connect.await.unwrap().unwrap();
        assert_eq!(gate.waiting(), 0);
    });
}

#[test]
fn a_timeout_cancels_a_signature_that_never_comes() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let (identity, gate) = (Identity::new(), Gate::default());
        let acceptor = identity.server(gate.key(), &rustls::version::TLS13);
        let (near, far) = duplex(1 << 16);
        let accept = spawn_local(timeout(Duration::from_secs(10), acceptor.accept(near)));
        let connect = connect_to(far, &identity.client());
        gate.asked(1).await;
        assert_eq!((gate.waiting(), pool::stats().in_use), (1, 1));
        accept.await.unwrap().unwrap_err(); // the paused clock advances: no task is ready
        assert_eq!(
            (gate.waiting(), pool::stats().in_use),
            (0, 0),
            "the wait was cancelled and the stack is back"
        );
        connect.await.unwrap().unwrap_err();
        assert!(
            gate.take().1.send(Ok(vec![])).is_err(),
            "a late signature is not waited for"
        );
    });
}

#[test]
fn a_signer_that_panics_ends_its_task_and_no_other() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let (identity, gate) = (Identity::new(), Gate::default());
        let connector = identity.client();
        let (other_accept, other_connect) = connect(&identity.server(gate.key(), &rustls::version::TLS13), &connector);
        gate.asked(1).await;
        let (accept, connect) = connect(&identity.server(panicking_key(), &rustls::version::TLS13), &connector);
        let panic = accept.await.unwrap_err().into_panic();
        assert_eq!(*panic.downcast::<&str>().unwrap(), "a bug in the signer");
        connect.await.unwrap().unwrap_err();
        assert_eq!(pool::stats().in_use, 1, "the other handshake's job");
        gate.sign(&identity);
        other_accept.await.unwrap().unwrap();
        other_connect.await.unwrap().unwrap();
    });
}

#[test]
fn a_wrong_signature_is_noticed_by_the_client() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let (identity, gate) = (Identity::new(), Gate::default());
        let (accept, connect) = connect(
            &identity.server(gate.key(), &rustls::version::TLS13),
            &identity.client(),
        );
        gate.asked(1).await;
        let (_, answer) = gate.take();
        answer.send(Ok(identity.sign(b"something else"))).unwrap();
        let error = connect.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("BadSignature"), "{error}");
        let error = accept.await.unwrap().unwrap_err();
        assert!(
            error.to_string().contains("DecryptError"),
            "the client's alert: {error}"
        );
    });
}

#[test]
fn a_key_outside_a_job_is_an_error_unless_it_may_block() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let identity = Identity::new();
        let signing = Arc::new(Identity {
            certificate: identity.certificate.clone(),
            key: Arc::clone(&identity.key),
        });
        let key = AwaitedKey::new(SignatureAlgorithm::ECDSA, [SCHEME], move |_, message| {
            let signature = signing.sign(&message);
            async { Ok::<_, io::Error>(signature) }
        });
        let sign = |key: &dyn SigningKey| key.choose_scheme(&[SCHEME]).unwrap().sign(b"message");
        let error = sign(&key).unwrap_err();
        assert!(matches!(of_signer(&error), AwaitError::NotInJob), "{error}");
        sign(&key.or_block()).unwrap();

        let (key, _pool, orders) = offloaded(&identity, 1);
        let error = sign(&key).unwrap_err();
        assert!(matches!(of_signer(&error), OffloadError::NotInJob), "{error}");
        orders.send(Order::Sign).unwrap();
        sign(&key.or_block()).unwrap();
    });
}

#[test]
fn a_client_that_leaves_during_its_signature_cancels_it() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let (identity, gate) = (Identity::new(), Gate::default());
        let acceptor = identity.server(gate.key(), &rustls::version::TLS13);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(&client_hello(&identity)).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let serve = spawn_local(async move {
            let left = asyncjob_tokio::hangup(stream.as_fd()).unwrap();
            tokio::select! {
                biased;
                _ = acceptor.accept(stream) => "handshake ended",
                left = left => left.map(|()| "client left").unwrap(),
            }
        });
        gate.asked(1).await;
        assert_eq!((gate.waiting(), pool::stats().in_use), (1, 1));
        drop(client);
        assert_eq!(serve.await.unwrap(), "client left");
        assert_eq!((gate.waiting(), pool::stats().in_use), (0, 0));
    });
}

/// How many clients [`nothing_leaks_when_clients_leave`] has, which `ASYNCJOB_LONG=1` raises, and the time for them.
fn leaving_clients() -> (u32, Duration) {
    if std::env::var_os("ASYNCJOB_LONG").is_some() {
        (100_000, Duration::from_secs(1200))
    } else {
        (5_000, Duration::from_secs(60))
    }
}

#[test]
fn nothing_leaks_when_clients_leave() {
    let (clients, limit) = leaving_clients();
    let _watchdog = Watchdog::after(limit);
    on_one_thread(async {
        let (identity, gate) = (Identity::new(), Gate::default());
        let acceptor = identity.server(gate.key(), &rustls::version::TLS13);
        let hello = client_hello(&identity);
        let mut resident_after_warm_up = 0;
        for client in 0..clients {
            let (near, mut far) = duplex(1 << 14);
            far.write_all(&hello).await.unwrap();
            let mut accept = std::pin::pin!(acceptor.accept(near));
            let polled = std::future::poll_fn(|task| std::task::Poll::Ready(accept.as_mut().poll(task))).await;
            assert!(polled.is_pending());
            assert_eq!(
                (gate.waiting(), pool::stats().in_use),
                (1, 1),
                "client {client} waits for its signature"
            );
            drop(gate.take());
            if client == 1_000 {
                resident_after_warm_up = resident_kib();
            }
        }
        assert_eq!((gate.waiting(), pool::stats().in_use), (0, 0));
        let grown = resident_kib().saturating_sub(resident_after_warm_up);
        // A leak of one page for each client would be 16 MiB with 5,000 clients.
        assert!(grown < 4096, "{grown} KiB more after {clients} cancelled signatures");
    });
}

#[test]
fn a_runtime_that_shuts_down_cancels_the_signatures_that_are_waited_for() {
    let _watchdog = Watchdog::new();
    let (identity, gate) = (Identity::new(), Gate::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let tasks = LocalSet::new();
    let acceptor = identity.server(gate.key(), &rustls::version::TLS13);
    let ends = Rc::new(RefCell::new(Vec::new()));
    tasks.block_on(&runtime, async {
        for _ in 0..3 {
            let ends = Rc::clone(&ends);
            let (near, far) = greeted(&identity).await;
            let accept = acceptor.accept(near);
            spawn_local(async move {
                let _far = far;
                let end = accept.await.map(drop).map_err(|error| error.to_string());
                ends.borrow_mut().push(end);
            });
        }
        gate.asked(3).await;
    });
    assert_eq!((gate.waiting(), pool::stats().in_use), (3, 3));
    drop(tasks);
    drop(runtime);
    assert_eq!((gate.waiting(), pool::stats().in_use), (0, 0));
    assert_eq!(
        ends.borrow().len(),
        0,
        "the tasks ended without a result, as tokio's tasks do"
    );
}

#[test]
fn a_key_that_blocks_does_not_block_the_event_loop() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let identity = Identity::new();
        let (key, pool, orders) = offloaded(&identity, 2);
        let (acceptor, connector) = (identity.server(key, &rustls::version::TLS13), identity.client());
        let ends: Vec<_> = (0..5).map(|_| connect(&acceptor, &connector)).collect();
        until(|| (pool.stats().running, pool.stats().queued) == (2, 3)).await;
        assert_eq!(
            pool::stats().in_use,
            5,
            "two threads are blocked, five handshakes wait, this task runs"
        );
        (0..5).for_each(|_| orders.send(Order::Sign).unwrap());
        for (accept, connect) in ends {
            accept.await.unwrap().unwrap();
            connect.await.unwrap().unwrap();
        }
        assert_eq!((pool.stats().running, pool.stats().finished), (0, 5));
    });
}

#[test]
fn an_offloaded_signer_that_panics_fails_its_handshake_only() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let identity = Identity::new();
        let (key, _pool, orders) = offloaded(&identity, 1);
        let (acceptor, connector) = (identity.server(key, &rustls::version::TLS13), identity.client());
        let first = connect(&acceptor, &connector);
        orders.send(Order::Panic).unwrap();
        let error = first.0.await.unwrap().unwrap_err();
        let OffloadError::Panicked(panic) = of_handshake(&error) else {
            panic!("{error}")
        };
        assert_eq!(panic.message(), "a bug in the library of the HSM");
        first.1.await.unwrap().unwrap_err();
        let second = connect(&acceptor, &connector);
        orders.send(Order::Sign).unwrap();
        second.0.await.unwrap().unwrap();
        second.1.await.unwrap().unwrap();
    });
}

#[test]
fn an_offloaded_signer_that_hangs_keeps_its_thread_and_not_its_handshake() {
    let _watchdog = Watchdog::new();
    on_one_thread(async {
        let identity = Identity::new();
        let (key, pool, orders) = offloaded(&identity, 1);
        let acceptor = identity.server(key, &rustls::version::TLS13);
        let (near, _far) = greeted(&identity).await;
        let accept = spawn_local(acceptor.accept(near));
        until(|| pool.stats().running == 1).await;
        accept.abort(); // as a timeout does
        assert!(accept.await.unwrap_err().is_cancelled());
        assert_eq!(
            (pool::stats().in_use, pool.stats().running),
            (0, 1),
            "the thread is still blocked"
        );
        // Behind it: a signature that has not begun is not made.
        let waiting: Vec<_> = (0..20).map(|_| connect(&acceptor, &identity.client())).collect();
        until(|| pool.stats().queued == 20).await;
        for (accept, connect) in waiting {
            accept.abort();
            assert!(accept.await.unwrap_err().is_cancelled());
            connect.await.unwrap().unwrap_err();
        }
        assert_eq!((pool::stats().in_use, pool.stats().queued), (0, 0));
        orders.send(Order::Sign).unwrap();
        until(|| (pool.stats().running, pool.stats().finished) == (0, 1)).await;
    });
}
