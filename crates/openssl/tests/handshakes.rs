//! Promise: engines and providers in C that pause do so under tokio, on workers and on the scheduler. No thread is
//! blocked, and a client that leaves, a client's own key, resumption, and a read that needs a signature all work.

#![allow(unsafe_code, reason = "calls the test's provider and engine, which are C code")]

mod support;

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asyncjob::io::Pausing as PausingIo;
use asyncjob::scheduler::Scheduler;
use asyncjob_openssl::{SslStream, TlsAcceptor, connect};
use asyncjob_testing::Watchdog;
use asyncjob_testing::tools::{CC, OPENSSL_HEADERS, missing};
use openssl::pkey::{PKey, Private};
use openssl::ssl::{
    SslAcceptor, SslConnector, SslConnectorBuilder, SslMethod, SslRef, SslSession, SslSessionCacheMode, SslVerifyMode,
    SslVersion,
};
use openssl::x509::X509;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use support::{Counts, Pausing, Signer, Wake};

const TLS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

fn acceptor(identity: &(PKey<Private>, X509), clients: Option<&X509>) -> SslAcceptor {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    builder.set_private_key(&identity.0).unwrap();
    builder.set_certificate(&identity.1).unwrap();
    builder.check_private_key().unwrap();
    builder.set_session_id_context(b"test").unwrap();
    if let Some(client) = clients {
        builder.cert_store_mut().add_cert(client.clone()).unwrap();
        builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    }
    builder.build()
}

fn connector(server: &X509, version: SslVersion) -> SslConnectorBuilder {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    builder.cert_store_mut().add_cert(server.clone()).unwrap();
    builder.set_min_proto_version(Some(version)).unwrap();
    builder.set_max_proto_version(Some(version)).unwrap();
    builder
}

/// A client of the crate `tokio_openssl`, which knows no jobs.
async fn plain_client(connector: &SslConnector, address: SocketAddr) -> tokio_openssl::SslStream<TcpStream> {
    let ssl = connector.configure().unwrap().into_ssl("localhost").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = tokio_openssl::SslStream::new(ssl, stream).unwrap();
    Pin::new(&mut stream).connect().await.unwrap();
    stream
}

/// Runs a test on one thread.
fn on_one_thread<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test)
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Waits until as many signatures are in progress.
async fn until_running(pausing: &Pausing, count: i64) {
    while pausing.counts().running != count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Accepts connections, each in a task of its own, and sends a byte to each.
fn serve(listener: TcpListener, acceptor: &SslAcceptor) -> JoinHandle<()> {
    let acceptor = TlsAcceptor::from(acceptor.clone());
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            spawn_local(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    stream.write_all(b"!").await.unwrap();
                    stream.shutdown().await.unwrap();
                }
            });
        }
    })
}

#[test]
fn two_hundred_signatures_are_made_at_once_for_one_thread() {
    if missing(&[CC, OPENSSL_HEADERS]) {
        return;
    }
    let _watchdog = Watchdog::new();
    for signer in [Signer::ProviderRsa, Signer::ProviderEc, Signer::EngineRsa] {
        let pausing = Pausing::new(signer);
        let identity = pausing.identity();
        for (round, (version, wake)) in (1..).zip([
            (TLS[0], Wake::ByFd),
            (TLS[0], Wake::ByCallback),
            (TLS[1], Wake::ByFd),
            (TLS[1], Wake::ByCallback),
        ]) {
            pausing.set(wake, true);
            on_one_thread(handshakes_at_once(&pausing, &identity, version));
            let expected = Counts {
                paused: 200 * round,
                cancelled: 0,
                blocked: 0,
                running: 0,
            };
            assert_eq!(pausing.counts(), expected, "{signer:?} {version:?} {wake:?}");
        }
    }
}

async fn handshakes_at_once(pausing: &Pausing, identity: &(PKey<Private>, X509), version: SslVersion) {
    let (listener, address) = listen().await;
    let server = serve(listener, &acceptor(identity, None));
    let connector = connector(&identity.1, version).build();
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let connector = connector.clone();
            spawn_local(async move {
                let mut stream = plain_client(&connector, address).await;
                let mut read = Vec::new();
                stream.read_to_end(&mut read).await.unwrap();
                read
            })
        })
        .collect();
    until_running(pausing, 200).await;
    // The thread serves others meanwhile.
    let (other, other_address) = listen().await;
    let echo = spawn_local(async move {
        let (mut stream, _) = other.accept().await.unwrap();
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.is_ok() {
            stream.write_all(&byte).await.unwrap();
        }
    });
    let mut unrelated = TcpStream::connect(other_address).await.unwrap();
    for sent in 0..50 {
        unrelated.write_all(&[sent]).await.unwrap();
        assert_eq!(unrelated.read_u8().await.unwrap(), sent);
    }
    drop(unrelated);
    echo.await.unwrap();
    assert_eq!(pausing.counts().running, 200);
    pausing.set(Wake::ByFd, false);
    for client in clients {
        assert_eq!(client.await.unwrap(), b"!");
    }
    until_running(pausing, 0).await;
    server.abort();
}

#[test]
fn the_key_of_a_client_pauses_too() {
    if missing(&[CC, OPENSSL_HEADERS]) {
        return;
    }
    let _watchdog = Watchdog::new();
    let pausing = Pausing::new(Signer::ProviderEc);
    let (server, client) = (pausing.identity(), pausing.identity());
    for (version, wake) in [(TLS[0], Wake::ByCallback), (TLS[1], Wake::ByFd)] {
        let before = pausing.counts();
        pausing.set(wake, false);
        on_one_thread(async {
            let (listener, address) = listen().await;
            let acceptor = TlsAcceptor::from(acceptor(&server, Some(&client.1)));
            let accepted = spawn_local(async move {
                let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
                let seen = stream.ssl().unwrap().peer_certificate().unwrap();
                stream.write_all(b"known").await.unwrap();
                stream.shutdown().await.unwrap();
                seen
            });
            let mut connector = connector(&server.1, version);
            connector.set_private_key(&client.0).unwrap();
            connector.set_certificate(&client.1).unwrap();
            let configuration = connector.build().configure().unwrap();
            let stream = TcpStream::connect(address).await.unwrap();
            let mut stream = connect(configuration, "localhost", stream).await.unwrap();
            let mut read = String::new();
            stream.read_to_string(&mut read).await.unwrap();
            assert_eq!(read, "known");
            assert_eq!(accepted.await.unwrap().to_der().unwrap(), client.1.to_der().unwrap());
        });
        let after = pausing.counts();
        assert_eq!(
            (after.paused - before.paused, after.blocked, after.cancelled),
            (2, 0, 0),
            "one of each side"
        );
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_signature_costs_that_signature_only() {
    if missing(&[CC, OPENSSL_HEADERS]) {
        return;
    }
    let _watchdog = Watchdog::new();
    let pausing = Pausing::new(Signer::ProviderRsa);
    let identity = pausing.identity();
    for (round, wake) in (1..).zip([Wake::ByFd, Wake::ByCallback]) {
        pausing.set(wake, true);
        on_one_thread(async {
            let (listener, address) = listen().await;
            let acceptor = TlsAcceptor::from(acceptor(&identity, None));
            let connector = connector(&identity.1, TLS[1]).build();
            let leaving: Vec<_> = (0..10)
                .map(|_| {
                    let connector = connector.clone();
                    spawn_local(async move { plain_client(&connector, address).await })
                })
                .collect();
            let mut accepting = Vec::new();
            for _ in 0..10 {
                let stream = listener.accept().await.unwrap().0;
                let hangup = asyncjob_tokio::hangup(stream.as_fd()).unwrap();
                let acceptor = acceptor.clone();
                accepting.push(spawn_local(async move {
                    tokio::select! {
                        _ = acceptor.accept(stream) => panic!("no signature is made"),
                        left = hangup => left.unwrap(),
                    }
                }));
            }
            until_running(&pausing, 10).await;
            leaving.iter().for_each(JoinHandle::abort);
            for accept in accepting {
                accept.await.unwrap();
            }
            // The threads still work, for nobody. Their wakes do no harm.
            let counts = pausing.counts();
            assert_eq!(
                (counts.running, counts.cancelled, counts.paused),
                (10, 10 * round, 11 * round - 1)
            );
            pausing.set(wake, false);
            until_running(&pausing, 0).await;
            // Others are served as before.
            let server = serve(listener, &self::acceptor(&identity, None));
            let mut stream = plain_client(&connector, address).await;
            assert_eq!(stream.read_u8().await.unwrap(), b'!');
            server.abort();
        });
    }
}

#[test]
fn a_session_that_is_resumed_needs_no_signature() {
    if missing(&[CC, OPENSSL_HEADERS]) {
        return;
    }
    let _watchdog = Watchdog::new();
    let pausing = Pausing::new(Signer::ProviderRsa);
    pausing.set(Wake::ByFd, false);
    let identity = pausing.identity();
    for (round, version) in (1..).zip(TLS) {
        on_one_thread(async {
            let (listener, address) = listen().await;
            let server = serve(listener, &acceptor(&identity, None));
            let sessions = Arc::new(Mutex::new(None::<SslSession>));
            let mut connector = connector(&identity.1, version);
            connector.set_session_cache_mode(SslSessionCacheMode::CLIENT);
            let kept = Arc::clone(&sessions);
            connector.set_new_session_callback(move |_, session| *kept.lock().unwrap() = Some(session));
            let connector = connector.build();
            for resumed in [false, true] {
                let mut ssl = connector.configure().unwrap().into_ssl("localhost").unwrap();
                let session = sessions.lock().unwrap().take();
                assert_eq!(session.is_some(), resumed);
                if let Some(session) = session {
                    // SAFETY: the session comes from the same context.
                    unsafe { ssl.set_session(&session) }.unwrap();
                }
                let stream = TcpStream::connect(address).await.unwrap();
                let mut stream = SslStream::new(ssl, stream).unwrap();
                stream.connect().await.unwrap();
                assert_eq!(stream.ssl().map(SslRef::session_reused), Some(resumed), "{version:?}");
                let mut read = Vec::new();
                stream.read_to_end(&mut read).await.unwrap();
                let _ = stream.shutdown().await; // OpenSSL resumes no session that was cut off
                assert_eq!(read, b"!");
            }
            server.abort();
        });
        assert_eq!(pausing.counts().paused, round, "{version:?}");
    }
}

/// In TLS 1.3 a server may ask for the certificate of a client that is connected. The client signs while it reads.
#[test]
fn a_read_that_needs_a_signature_pauses_and_a_write_follows_it() {
    if missing(&[CC, OPENSSL_HEADERS]) {
        return;
    }
    let _watchdog = Watchdog::new();
    let pausing = Pausing::new(Signer::ProviderEc);
    let (server, client) = (pausing.identity(), pausing.identity());
    for wake in [Wake::ByFd, Wake::ByCallback] {
        pausing.set(wake, false);
        on_one_thread(async {
            let (listener, address) = listen().await;
            let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
            builder.set_private_key(&server.0).unwrap();
            builder.set_certificate(&server.1).unwrap();
            builder.cert_store_mut().add_cert(client.1.clone()).unwrap();
            let acceptor = TlsAcceptor::from(builder.build());
            let accepted = spawn_local(async move {
                let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), 1);
                support::ask_for_certificate(stream.ssl().unwrap());
                stream.write_all(b"go on").await.unwrap();
                let mut read = vec![0; 100_000];
                stream.read_exact(&mut read).await.unwrap();
                let seen = stream.ssl().unwrap().peer_certificate();
                stream.shutdown().await.unwrap();
                (seen.map(|certificate| certificate.to_der().unwrap()), read)
            });
            let mut connector = connector(&server.1, TLS[1]);
            connector.set_private_key(&client.0).unwrap();
            connector.set_certificate(&client.1).unwrap();
            let ssl = connector.build().configure().unwrap().into_ssl("localhost").unwrap();
            support::allow_to_be_asked(&ssl);
            let mut stream = SslStream::new(ssl, TcpStream::connect(address).await.unwrap()).unwrap();
            stream.connect().await.unwrap();
            let before = pausing.counts();
            pausing.set(wake, true);
            stream.write_all(&[1]).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(stream);
            let reading = spawn_local(async move {
                let mut read = String::new();
                reader.read_to_string(&mut read).await.unwrap();
                read
            });
            until_running(&pausing, 1).await;
            // The write has to wait for the read, which waits for its signature.
            let writing = spawn_local(async move {
                writer.write_all(&[7; 100_000]).await.unwrap();
                writer.flush().await.unwrap();
                writer
            });
            tokio::task::yield_now().await;
            if writing.is_finished() {
                panic!("{:?}", writing.await);
            }
            pausing.set(wake, false);
            writing.await.unwrap();
            let (seen, read) = accepted.await.unwrap();
            assert_eq!((seen, read), (Some(client.1.to_der().unwrap()), vec![7; 100_000]));
            assert_eq!(reading.await.unwrap(), "go on");
            assert_eq!(pausing.counts().paused - before.paused, 1);
        });
    }
    assert_eq!((pausing.counts().blocked, pausing.counts().cancelled), (0, 0));
}

#[test]
fn handshakes_on_workers_leave_the_threads_of_the_runtime_alone() {
    if missing(&[CC, OPENSSL_HEADERS]) {
        return;
    }
    let _watchdog = Watchdog::new();
    let pausing = Pausing::new(Signer::ProviderRsa);
    pausing.set(Wake::ByCallback, true);
    let identity = pausing.identity();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let workers = asyncjob_tokio::Workers::new(2).unwrap();
    runtime.block_on(async {
        let (listener, address) = listen().await;
        let acceptor = TlsAcceptor::from(acceptor(&identity, None));
        let handle = workers.handle();
        let connector = connector(&identity.1, TLS[1]).build();
        let mut tasks = Vec::new();
        for _ in 0..20 {
            let connector = connector.clone();
            tasks.push(tokio::spawn(async move {
                let mut stream = plain_client(&connector, address).await;
                assert_eq!(stream.read_u8().await.unwrap(), b'!');
            }));
            let accept = acceptor.accept_on(&handle, listener.accept().await.unwrap().0);
            tasks.push(tokio::spawn(async move {
                let mut stream = accept.await.unwrap().unwrap();
                stream.write_all(b"!").await.unwrap();
            }));
        }
        until_running(&pausing, 20).await;
        pausing.set(Wake::ByCallback, false);
        for task in tasks {
            task.await.unwrap();
        }
    });
    let counts = pausing.counts();
    assert_eq!((counts.paused, counts.blocked, counts.cancelled), (20, 0, 0));
}

#[test]
fn openssls_own_streams_pause_in_jobs_of_the_scheduler() {
    use std::io::{Read, Write};

    if missing(&[CC, OPENSSL_HEADERS]) {
        return;
    }
    let _watchdog = Watchdog::new();
    for signer in [Signer::ProviderRsa, Signer::EngineRsa] {
        let pausing = Pausing::new(signer);
        pausing.set(Wake::ByFd, false);
        let (server, client) = (pausing.identity(), pausing.identity());
        let acceptor = acceptor(&server, Some(&client.1));
        let scheduler = Scheduler::new().unwrap();
        let mut jobs = Vec::new();
        for (version, bytes) in [(TLS[0], 100_000), (TLS[1], 100_000)].repeat(10) {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let acceptor = acceptor.clone();
            let accept = asyncjob_openssl::job().spawn_on(&scheduler, move || {
                let (stream, _) = PausingIo::new(listener).unwrap().accept().unwrap();
                let mut stream = acceptor.accept(stream).unwrap();
                stream.write_all(&vec![3; bytes]).unwrap();
                stream.shutdown().unwrap();
                bytes
            });
            let mut connector = connector(&server.1, version);
            connector.set_private_key(&client.0).unwrap();
            connector.set_certificate(&client.1).unwrap();
            let connector = connector.build();
            let connect = asyncjob_openssl::job().spawn_on(&scheduler, move || {
                let stream = PausingIo::<std::net::TcpStream>::connect(address).unwrap();
                let mut stream = connector.connect("localhost", stream).unwrap();
                let mut read = Vec::new();
                stream.read_to_end(&mut read).unwrap();
                read.len()
            });
            jobs.extend([accept.unwrap(), connect.unwrap()]);
        }
        scheduler.run().unwrap();
        for job in jobs {
            assert_eq!(job.join().unwrap(), 100_000);
        }
        let counts = pausing.counts();
        assert_eq!(
            (counts.paused, counts.blocked, counts.cancelled),
            (40, 0, 0),
            "{signer:?}"
        );
    }
}
