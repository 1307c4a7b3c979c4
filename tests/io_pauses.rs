//! Promise: `io` pauses the job instead of blocking its thread, changes a driver's poll set only when it must, and
//! blocks the thread outside a job.

mod drivers;

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::io::Pausing;
use asyncjob::time::with_deadline;
use asyncjob::{Cancelled, Interest, Job, Step, WaitCtx, WaitFd, WaitKey, block_pause, start_job};
use asyncjob_testing::Watchdog;
use drivers::{Drivers, EVERY, Rule};

fn pair() -> (Pausing<UnixStream>, Pausing<UnixStream>) {
    let (a, b) = UnixStream::pair().unwrap();
    (Pausing::new(a).unwrap(), Pausing::new(b).unwrap())
}

fn paused<T: 'static>(ctx: &WaitCtx, f: impl FnOnce() -> T + 'static) -> Job<T> {
    match start_job(ctx, f) {
        Ok(Step::Paused(job)) => job,
        Ok(Step::Finished(_)) => panic!("the job did not pause"),
        Err(e) => panic!("{e}"),
    }
}

fn finished<T>(step: Step<T>) -> T {
    match step {
        Step::Finished(value) => value,
        Step::Paused(_) => panic!("the job paused"),
    }
}

fn is_cancelled(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Cancelled>())
}

#[test]
fn a_megabyte_goes_both_ways_under_every_driver() {
    for rule in EVERY {
        let mut driver = Drivers::new(rule);
        let data: Vec<u8> = (0..1_000_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let (mut here, mut there) = pair();
        let received = Rc::new(RefCell::new(Vec::new()));

        driver.start(move || {
            let mut buffer = [0; 3000];
            loop {
                let length = there.read(&mut buffer).unwrap();
                if length == 0 {
                    return;
                }
                there.write_all(&buffer[..length]).unwrap();
            }
        });
        let (sent, echoed) = (data.clone(), Rc::clone(&received));
        driver.start(move || {
            for chunk in sent.chunks(50_000) {
                here.write_all(chunk).unwrap();
                let mut echo = vec![0; chunk.len()];
                here.read_exact(&mut echo).unwrap();
                echoed.borrow_mut().extend(echo);
            }
        });
        driver.run();
        assert!(*received.borrow() == data, "{rule:?}");
    }
}

#[test]
fn connect_and_accept_share_one_thread_under_every_driver() {
    for rule in EVERY {
        let mut driver = Drivers::new(rule);
        let listener = Pausing::<TcpListener>::bind("127.0.0.1:0").unwrap();
        let address = listener.get_ref().local_addr().unwrap();
        let greeting = Rc::new(RefCell::new(String::new()));
        driver.start(move || {
            let (mut stream, from) = listener.accept().unwrap();
            assert!(from.ip().is_loopback());
            stream.write_all(b"welcome").unwrap();
        });
        let heard = Rc::clone(&greeting);
        driver.start(move || {
            let mut stream = Pausing::<TcpStream>::connect(address).unwrap();
            stream.read_to_string(&mut heard.borrow_mut()).unwrap();
        });
        driver.run();
        assert_eq!(*greeting.borrow(), "welcome", "{rule:?}");
    }
}

#[test]
fn unix_sockets_are_accepted() {
    let path = std::env::temp_dir().join(format!("asyncjob-io-{}", std::process::id()));
    let listener = Pausing::<UnixListener>::bind(&path).unwrap();
    let ctx = WaitCtx::new();
    let job = paused(&ctx, move || {
        listener.accept().map(|(mut stream, _)| stream.write_all(b"x"))
    });
    let mut client = UnixStream::connect(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    finished(job.resume()).unwrap().unwrap();
    let mut byte = [0];
    client.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

#[test]
fn a_refused_connection_is_reported() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let mut driver = Drivers::new(Rule::Fds);
    driver.start(move || {
        let error = Pausing::<TcpStream>::connect(port).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
    driver.run();
    let outside = Pausing::<TcpStream>::connect(port).unwrap_err();
    assert_eq!(outside.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_thousand_waits_change_the_wait_fds_once() {
    let (mut here, there) = pair();
    let ctx = WaitCtx::new();
    let mut job = paused(&ctx, move || {
        for _ in 0..1000 {
            here.read_exact(&mut [0]).unwrap();
        }
    });
    let (version, fds) = (ctx.version(), ctx.fds());
    assert_eq!(fds.len(), 1);
    for byte in 0..999 {
        (&there).write_all(&[byte as u8]).unwrap();
        let Step::Paused(again) = job.resume() else {
            panic!("at byte {byte}")
        };
        job = again;
        assert_eq!((ctx.version(), ctx.fds()), (version, fds.clone()));
    }
    (&there).write_all(&[0]).unwrap();
    finished(job.resume());
    assert!(ctx.fds().is_empty(), "the socket is no longer in the ctx");
}

#[test]
fn a_full_socket_waits_until_it_is_writable() {
    let (mut here, there) = pair();
    let ctx = WaitCtx::new();
    let job = paused(&ctx, move || {
        here.read_exact(&mut [0]).unwrap();
        here.write_all(&vec![7; 1 << 20]).unwrap();
        here.read_exact(&mut [0])
    });
    let waits_for = || ctx.fds().iter().map(|fd| fd.interest).collect::<Vec<_>>();
    assert_eq!(waits_for(), [Interest::Readable]);
    (&there).write_all(&[1]).unwrap();
    let Step::Paused(mut job) = job.resume() else { panic!() };
    assert_eq!(waits_for(), [Interest::Writable]);

    let mut taken = 0;
    while taken < 1 << 20 {
        taken += (&there).read(&mut [0; 65_536]).unwrap();
        let Step::Paused(again) = job.resume() else { panic!() };
        job = again;
    }
    assert_eq!(waits_for(), [Interest::Readable]);
    (&there).write_all(&[1]).unwrap();
    finished(job.resume()).unwrap();
}

#[test]
fn an_early_resume_does_not_end_a_read() {
    let (mut here, there) = pair();
    let mut job = paused(&WaitCtx::new(), move || here.read_exact(&mut [0]));
    for _ in 0..10 {
        let Step::Paused(again) = job.resume() else {
            panic!("there is nothing to read")
        };
        job = again;
    }
    (&there).write_all(&[1]).unwrap();
    finished(job.resume()).unwrap();
}

#[test]
fn a_read_and_a_write_time_out() {
    let (mut here, _there) = pair();
    here.set_read_timeout(Some(Duration::from_millis(2)));
    here.set_write_timeout(Some(Duration::from_millis(3)));
    assert_eq!(here.read_timeout(), Some(Duration::from_millis(2)));
    for rule in EVERY {
        let mut driver = Drivers::new(rule);
        let (mut here, _there) = pair();
        here.set_read_timeout(Some(Duration::from_millis(2)));
        here.set_write_timeout(Some(Duration::from_millis(3)));
        let ctx = driver.start(move || {
            let begin = Instant::now();
            assert_eq!(here.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
            assert!(begin.elapsed() >= Duration::from_millis(2), "a timeout is never early");
            let write = here.write_all(&vec![0; 10 << 20]);
            assert_eq!(write.unwrap_err().kind(), ErrorKind::TimedOut);
        });
        driver.run();
        assert_eq!(ctx.deadline(), None, "{rule:?}");
    }
    // Outside a job.
    assert_eq!(here.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(
        here.write_all(&vec![0; 10 << 20]).unwrap_err().kind(),
        ErrorKind::TimedOut
    );
}

#[test]
fn a_timeout_starts_anew_with_each_operation_and_keeps_an_earlier_deadline() {
    let (mut here, there) = pair();
    let hour = Duration::from_secs(3600);
    let ctx = WaitCtx::new();
    let soon = Instant::now() + Duration::from_secs(60);
    let job = paused(&ctx, move || {
        here.set_read_timeout(Some(hour));
        here.read_exact(&mut [0]).unwrap();
        with_deadline(soon, || here.read_exact(&mut [0])).unwrap();
    });
    assert!(ctx.deadline().unwrap() > soon, "the deadline of the timeout");
    (&there).write_all(&[1]).unwrap();
    let Step::Paused(job) = job.resume() else { panic!() };
    assert_eq!(ctx.deadline(), Some(soon), "the deadline around it, which is earlier");
    (&there).write_all(&[1]).unwrap();
    finished(job.resume());
    assert_eq!(ctx.deadline(), None);
}

#[test]
fn a_timeout_of_zero_reads_what_has_arrived() {
    let (mut here, there) = pair();
    here.set_read_timeout(Some(Duration::ZERO));
    (&there).write_all(&[1]).unwrap();
    let step = start_job(&WaitCtx::new(), move || {
        here.read_exact(&mut [0]).unwrap();
        here.read(&mut [0]).unwrap_err().kind()
    });
    assert_eq!(finished(step.unwrap()), ErrorKind::TimedOut);
}

#[test]
fn a_cancelled_read_fails_and_removes_its_wait_fd() {
    let (mut here, _there) = pair();
    let ctx = WaitCtx::new();
    let job = paused(&ctx, move || here.read_exact(&mut [0]));
    let error = job.cancel().expect("the job returns").unwrap_err();
    assert!(is_cancelled(&error), "{error}");
    assert!(ctx.fds().is_empty());
}

#[test]
fn a_socket_moves_its_wait_fd_to_the_next_job() {
    let (here, there) = pair();
    let first = WaitCtx::new();
    let mut here_again = here;
    let job = paused(&first, move || {
        here_again.read_exact(&mut [0]).unwrap();
        here_again
    });
    (&there).write_all(&[1]).unwrap();
    let mut here = finished(job.resume());
    assert_eq!(first.version(), 1, "added once, and still there");

    let second = WaitCtx::new();
    let job = paused(&second, move || here.read_exact(&mut [0]));
    assert!(first.fds().is_empty());
    assert_eq!(
        first.changes().removed.len(),
        1,
        "the driver of the first ctx sees the removal"
    );
    assert_eq!(second.fds().len(), 1);
    drop(job);
}

#[test]
fn a_socket_outlives_the_ctx_and_does_not_keep_it_alive() {
    struct CleanedUp(Arc<AtomicUsize>, UnixStream);
    impl AsFd for CleanedUp {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.1.as_fd()
        }
    }
    impl Drop for CleanedUp {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let cleanups = Arc::new(AtomicUsize::new(0));
    let (mut here, there) = pair();
    let ctx = WaitCtx::new();
    let engine = CleanedUp(Arc::clone(&cleanups), UnixStream::pair().unwrap().0);
    ctx.add_wait_fd(WaitKey::unique(), engine);
    let job = paused(&ctx, move || {
        here.read_exact(&mut [0]).unwrap();
        here
    });
    (&there).write_all(&[1]).unwrap();
    let mut here = finished(job.resume());
    drop(ctx);
    assert_eq!(
        cleanups.load(SeqCst),
        1,
        "the last owner of the ctx was dropped, and the engine's value with it (S60)"
    );

    (&there).write_all(&[2]).unwrap();
    here.read_exact(&mut [0]).unwrap();
}

#[test]
fn the_wait_fd_is_removed_before_the_fd_is_closed() {
    struct Watched(UnixStream, WaitCtx, Arc<AtomicUsize>);
    impl AsFd for Watched {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
    impl Read for Watched {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl Drop for Watched {
        fn drop(&mut self) {
            let number = self.0.as_raw_fd();
            let mut registered = 0;
            let changes = self.1.changes();
            registered += changes.added.iter().filter(|fd| fd.fd == number).count();
            assert_eq!(changes.removed.iter().filter(|fd| fd.fd == number).count(), 1);
            self.2.store(100 + registered, SeqCst);
        }
    }
    let seen = Arc::new(AtomicUsize::new(0));
    let ctx = WaitCtx::new();
    let (a, mut b) = UnixStream::pair().unwrap();
    let mut here = Pausing::new(Watched(a, ctx.clone(), Arc::clone(&seen))).unwrap();
    let job = paused(&ctx, move || here.read_exact(&mut [0]).unwrap());
    b.write_all(&[1]).unwrap();
    finished(job.resume());
    assert_eq!(seen.load(SeqCst), 100);
}

#[test]
fn get_mut_removes_the_wait_fd() {
    let (mut here, there) = pair();
    let ctx = WaitCtx::new();
    let (replacement, mut peer) = UnixStream::pair().unwrap();
    replacement.set_nonblocking(true).unwrap();
    let number = replacement.as_raw_fd();
    let job = paused(&ctx, move || {
        here.read_exact(&mut [0]).unwrap();
        *here.get_mut() = replacement;
        here.read_exact(&mut [0])
    });
    (&there).write_all(&[1]).unwrap();
    let Step::Paused(job) = job.resume() else { panic!() };
    let fds: Vec<_> = ctx.fds().iter().map(|fd| fd.fd).collect();
    assert_eq!(fds, [number]);
    peer.write_all(&[1]).unwrap();
    finished(job.resume()).unwrap();
}

#[test]
fn two_jobs_share_one_socket() {
    for rule in EVERY {
        let (here, there) = pair();
        let here = Rc::new(here);
        let received = Rc::new(RefCell::new(Vec::new()));
        let mut driver = Drivers::new(rule);
        let (writer, reader, heard) = (Rc::clone(&here), here, Rc::clone(&received));
        driver.start(move || {
            let mut bytes = [0; 4];
            (&*reader).read_exact(&mut bytes).unwrap();
            heard.borrow_mut().extend(bytes);
        });
        // Waits until the socket is writable, while the first job waits until it is readable.
        driver.start(move || (&*writer).write_all(&vec![3; 1 << 20]).unwrap());
        driver.start(move || {
            let mut all = vec![0; 1 << 20];
            (&there).read_exact(&mut all).unwrap();
            (&there).write_all(b"done").unwrap();
        });
        driver.run();
        assert_eq!(*received.borrow(), b"done", "{rule:?}");
    }
}

#[test]
fn data_that_arrives_during_another_wait_does_not_resume_the_job() {
    let (mut here, there) = pair();
    let ctx = WaitCtx::new();
    let job = paused(&ctx, move || {
        here.read_exact(&mut [0]).unwrap();
        asyncjob::time::sleep(Duration::from_secs(3600)).unwrap_err();
        here
    });
    (&there).write_all(&[1, 2]).unwrap();
    let Step::Paused(job) = job.resume() else { panic!() };
    assert_eq!(ctx.fds(), [], "during the sleep the socket is not armed");
    job.cancel().unwrap();
}

#[test]
fn a_wait_fd_of_an_engine_counts_beside_the_socket() {
    let (mut here, _there) = pair();
    let ctx = WaitCtx::new();
    let (engine, _end) = UnixStream::pair().unwrap();
    let number = engine.as_raw_fd();
    ctx.add_wait_fd(WaitKey::unique(), engine);
    let job = paused(&ctx, move || here.read_exact(&mut [0]));
    let fds: Vec<WaitFd> = ctx.fds();
    assert_eq!((fds.len(), fds[1].fd), (2, number));
    drop(job);
}

#[test]
fn outside_a_job_io_blocks() {
    let _watchdog = Watchdog::new();
    let (mut here, mut there) = pair();
    let peer = thread::spawn(move || {
        there.write_all(&vec![5; 1 << 20]).unwrap();
        let mut back = vec![0; 1 << 20];
        there.read_exact(&mut back).unwrap();
        back
    });
    let mut data = vec![0; 1 << 20];
    here.read_exact(&mut data).unwrap();
    here.write_all(&data).unwrap();
    assert!(peer.join().unwrap() == vec![5; 1 << 20]);
}

#[test]
fn a_job_that_may_not_pause_blocks_its_thread() {
    let _watchdog = Watchdog::new();
    let (mut here, mut there) = pair();
    let peer = thread::spawn(move || {
        there.read_exact(&mut [0]).unwrap();
        there.write_all(&[9]).unwrap();
    });
    let step = start_job(&WaitCtx::new(), move || {
        let _no_pause = block_pause();
        here.write_all(&[1]).unwrap();
        let mut byte = [0];
        here.read_exact(&mut byte).unwrap();
        byte[0]
    });
    assert_eq!(finished(step.unwrap()), 9);
    peer.join().unwrap();
}

#[test]
fn datagrams_and_pipes_pause_too() {
    let socket = Pausing::new(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    let address = socket.get_ref().local_addr().unwrap();
    let (pipe, mut end) = io::pipe().unwrap();
    let mut pipe = Pausing::new(pipe).unwrap();
    let job = paused(&WaitCtx::new(), move || {
        let mut buffer = [0; 8];
        let (length, _) = socket
            .perform(Interest::Readable, |socket| socket.recv_from(&mut buffer))
            .unwrap();
        pipe.read_exact(&mut buffer[length..length + 1]).unwrap();
        buffer[..=length].to_vec()
    });
    UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .send_to(b"udp", address)
        .unwrap();
    let Step::Paused(job) = job.resume() else {
        panic!("the pipe is empty")
    };
    end.write_all(b"!").unwrap();
    assert_eq!(finished(job.resume()), b"udp!");
}

#[test]
fn errors_of_the_socket_are_passed_on() {
    let (mut here, there) = pair();
    let job = paused(&WaitCtx::new(), move || here.read_exact(&mut [0]).unwrap_err().kind());
    drop(there);
    assert_eq!(finished(job.resume()), ErrorKind::UnexpectedEof);
    let (mut here, there) = pair();
    drop(there);
    let step = start_job(&WaitCtx::new(), move || here.write_all(&[1]).unwrap_err().kind());
    assert_eq!(finished(step.unwrap()), ErrorKind::BrokenPipe);
}

#[test]
fn a_pausing_socket_is_send() {
    fn send<T: Send>() {}
    send::<Pausing<TcpStream>>();
}
