//! The part of HTTP/1.1 that a small server needs: GET and HEAD, keep-alive, pipelining, and limits.

use std::io::{self, BufRead, Read, Write};

/// The longest request line with headers, in bytes.
const LONGEST_HEAD: u64 = 8 * 1024;

/// A client's request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) head_only: bool,
    pub(crate) keep_alive: bool,
}

/// Why there is no request.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The client closed the connection between two requests.
    Closed,
    /// The request is malformed. The server answers with this status and closes the connection.
    Bad(&'static str),
    /// The connection failed, or took too long.
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // rustls reports this when the TCP connection ends without a TLS close_notify. Many clients close like that.
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Failure::Closed,
            _ => Failure::Io(error),
        }
    }
}

/// Reads the head of the next request.
pub(crate) fn read_request(stream: &mut impl BufRead) -> Result<Request, Failure> {
    let mut head = stream.take(LONGEST_HEAD);
    let mut line = String::new();
    read_line(&mut head, &mut line)?;
    let mut request = parse_first(&line)?;
    loop {
        line.clear();
        read_line(&mut head, &mut line)?;
        let header = line.trim_end();
        if header.is_empty() {
            return Ok(request);
        }
        let (name, value) = header.split_once(':').ok_or(Failure::Bad("400 Bad Request"))?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "connection" if value.eq_ignore_ascii_case("close") => request.keep_alive = false,
            "connection" if value.eq_ignore_ascii_case("keep-alive") => request.keep_alive = true,
            "content-length" if value != "0" => return Err(Failure::Bad("413 Content Too Large")),
            "transfer-encoding" => return Err(Failure::Bad("413 Content Too Large")),
            _ => {}
        }
    }
}

/// Sends a response in one write.
pub(crate) fn respond(stream: &mut impl Write, status: &str, request: Option<&Request>, body: &str) -> io::Result<()> {
    let keep_alive = request.is_some_and(|request| request.keep_alive);
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let length = body.len();
    let shown = if request.is_some_and(|request| request.head_only) {
        ""
    } else {
        body
    };
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: {connection}\r\n\r\n{shown}"
    );
    stream.write_all(response.as_bytes())?;
    stream.flush()
}

fn read_line(head: &mut io::Take<&mut impl BufRead>, line: &mut String) -> Result<(), Failure> {
    match head.read_line(line) {
        Ok(_) if line.ends_with('\n') => Ok(()),
        Ok(_) if head.limit() == 0 => Err(Failure::Bad("431 Request Header Fields Too Large")),
        Ok(_) => Err(Failure::Closed),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(Failure::Bad("400 Bad Request")), // not UTF-8
        Err(e) => Err(e.into()),
    }
}

fn parse_first(line: &str) -> Result<Request, Failure> {
    let mut words = line.split_whitespace();
    let (method, path, version) = (words.next(), words.next(), words.next());
    let keep_alive = match version {
        Some("HTTP/1.1") => true,
        Some("HTTP/1.0") => false,
        _ => return Err(Failure::Bad("400 Bad Request")),
    };
    let head_only = match method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(Failure::Bad("405 Method Not Allowed")),
    };
    let path = path.unwrap_or_default().to_owned();
    Ok(Request {
        path,
        head_only,
        keep_alive,
    })
}
