//! The part of HTTP/1.1 that a small server needs: GET and HEAD, keep-alive, pipelining, and limits.

use std::io::{self, BufRead, Read, Write};

/// The longest request line with headers, in bytes.
const LONGEST_HEAD: u64 = 8 * 1024;
/// The largest number of headers.
const MOST_HEADERS: usize = 64;

const BAD: Failure = Failure::Bad("400 Bad Request");
const TOO_LARGE: Failure = Failure::Bad("431 Request Header Fields Too Large");

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

/// Reads the head of the next request, and nothing after it.
pub(crate) fn read_request(stream: &mut impl BufRead) -> Result<Request, Failure> {
    let mut head = Vec::new();
    read_head(stream, &mut head)?;
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(&head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
        _ => return Err(BAD),
    }
    check_body(parsed.headers)?;
    let head_only = match parsed.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(Failure::Bad("405 Method Not Allowed")),
    };
    Ok(Request {
        path: parsed.path.unwrap_or_default().to_owned(),
        head_only,
        keep_alive: keeps_alive(parsed.version == Some(1), parsed.headers),
    })
}

/// Reads up to the first empty line. Empty lines before the request are skipped, as RFC 9112 (2.2) wants.
fn read_head(stream: &mut impl BufRead, head: &mut Vec<u8>) -> Result<(), Failure> {
    let mut limited = stream.take(LONGEST_HEAD);
    loop {
        let start = head.len();
        limited.read_until(b'\n', head)?;
        match &head[start..] {
            b"\n" | b"\r\n" if start == 0 => head.clear(),
            b"\n" | b"\r\n" => return Ok(()),
            line if line.ends_with(b"\n") => {}
            _ if limited.limit() == 0 => return Err(TOO_LARGE),
            _ => return Err(Failure::Closed),
        }
    }
}

/// Refuses a request that has a body. What the server took for the next request would be this body.
///
/// A length that the server could read in another way than a proxy before it is malformed: two lengths, a length beside
/// a transfer coding, a length that is not a number.
fn check_body(headers: &[httparse::Header<'_>]) -> Result<(), Failure> {
    let mut lengths = values(headers, "content-length");
    let length = lengths.next();
    let coded = values(headers, "transfer-encoding").next().is_some();
    if lengths.next().is_some() || (length.is_some() && coded) {
        return Err(BAD);
    }
    match length {
        Some(digits) if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) => Err(BAD),
        Some(digits) if digits.iter().any(|digit| *digit != b'0') => Err(Failure::Bad("413 Content Too Large")),
        _ if coded => Err(Failure::Bad("413 Content Too Large")),
        _ => Ok(()),
    }
}

fn keeps_alive(default: bool, headers: &[httparse::Header<'_>]) -> bool {
    let options = values(headers, "connection").flat_map(|value| value.split(|byte| *byte == b','));
    options.fold(default, |keep_alive, option| match option.trim_ascii() {
        option if option.eq_ignore_ascii_case(b"close") => false,
        option if option.eq_ignore_ascii_case(b"keep-alive") => true,
        _ => keep_alive,
    })
}

fn values<'h>(headers: &'h [httparse::Header<'_>], name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    let of_name = headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name));
    of_name.map(|header| header.value)
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
