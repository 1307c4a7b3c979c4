//! Promise: the example serves twenty clients at once from one thread.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use asyncjob_testing::Watchdog;
use asyncjob_testing::tools::{CC, OPENSSL_HEADERS, missing};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};

#[test]
fn the_server_of_the_example_serves_twenty_clients_at_once() {
    if missing(&[CC, OPENSSL_HEADERS]) {
        return;
    }
    let _watchdog = Watchdog::new();
    let test = env::current_exe().unwrap();
    let program: PathBuf = test.ancestors().nth(2).unwrap().join("examples/pausing_provider");
    let mut server = Command::new(program)
        .arg("20")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example was built");
    let mut said = BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let port: u16 = line
        .split_ascii_whitespace()
        .nth(3)
        .unwrap()
        .trim_end_matches('.')
        .parse()
        .unwrap();
    let clients: Vec<_> = (0..20).map(|_| std::thread::spawn(move || get(port))).collect();
    for client in clients {
        assert!(client.join().unwrap().ends_with(" ms after the first connection\n"));
    }
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(
        rest.ends_with("20 signatures paused their job, 0 blocked the thread\n"),
        "{rest}"
    );
    assert!(server.wait().unwrap().success());
}

fn get(port: u16) -> String {
    use std::io::Write;

    let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
    connector.set_verify(SslVerifyMode::NONE);
    let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut stream = connector.build().connect("localhost", stream).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
