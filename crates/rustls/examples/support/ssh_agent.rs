//! An ssh-agent, and the part of its protocol that signs (draft-ietf-sshm-ssh-agent).
//!
//! ```text
//!   request    length, 13, string key blob, string message, flags
//!   answer     length, 14, string { string algorithm, string signature }
//! ```
//!
//! A number has four bytes, the most significant first. A string is its length and its bytes. The agent hashes the
//! message itself, in the way that TLS wants for these two algorithms.

use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::{env, process, thread};

use asyncjob::io::Pausing;
use rustls::pki_types::{SubjectPublicKeyInfoDer, alg_id};
use rustls::sign::{Signer, SigningKey, public_key_to_spki};
use rustls::{OtherError, SignatureAlgorithm, SignatureScheme};

const LIST_IDENTITIES: u8 = 11;
const IDENTITIES: u8 = 12;
const SIGN: u8 = 13;
const SIGNATURE: u8 = 14;
/// The longest answer of an agent that is read.
const LONGEST_ANSWER: usize = 256 * 1024;

/// A running ssh-agent with one new key. Dropping this ends the agent, and the key is gone.
pub(crate) struct Agent {
    process: Child,
    directory: PathBuf,
}

impl Agent {
    /// Starts an agent and gives it a new key, `ecdsa` (P-256) or `ed25519`.
    pub(crate) fn start(kind: &str) -> Result<Agent, Box<dyn Error>> {
        let directory = env::temp_dir().join(format!("asyncjob-agent-{}", process::id()));
        fs::create_dir_all(&directory)?;
        let (socket, key) = (directory.join("socket"), directory.join("key"));
        let process = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn();
        let process = process.map_err(|error| format!("ssh-agent: {error} (`apt-get install openssh-client`)"))?;
        let agent = Agent { process, directory };
        while !socket.exists() {
            thread::yield_now(); // the agent does not report that it is ready
        }
        let quietly = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command
                .args(arguments)
                .arg(&key)
                .env("SSH_AUTH_SOCK", &socket)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            match command.status()?.success() {
                true => Ok(()),
                false => Err(io::Error::other(format!("{program} failed"))),
            }
        };
        quietly("ssh-keygen", &["-q", "-t", kind, "-N", "", "-f"])?;
        quietly("ssh-add", &["-q"])?;
        fs::remove_file(&key)?; // the agent has the only copy now
        Ok(agent)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A key that an agent keeps. Signing waits for the agent's socket, in a job by pausing it, elsewhere by blocking the
/// thread.
#[derive(Clone, Debug)]
pub(crate) struct AgentKey {
    socket: Arc<Path>,
    blob: Arc<[u8]>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    P256,
    Ed25519,
}

impl Kind {
    fn public_key_length(self) -> usize {
        match self {
            Kind::P256 => 65,
            Kind::Ed25519 => 32,
        }
    }
}

impl AgentKey {
    /// The agent's first key.
    pub(crate) fn first(socket: &Path) -> io::Result<AgentKey> {
        let answer = ask(socket, &[LIST_IDENTITIES], IDENTITIES)?;
        let mut rest = &answer[..];
        number(&mut rest)?; // the number of keys
        let blob = string(&mut rest)?;
        let kind = match string(&mut &blob[..])? {
            b"ecdsa-sha2-nistp256" => Kind::P256,
            b"ssh-ed25519" => Kind::Ed25519,
            other => {
                let sentence = format!(
                    "TLS 1.3 needs ecdsa-sha2-nistp256 or ssh-ed25519, not {}",
                    other.escape_ascii()
                );
                return Err(io::Error::new(io::ErrorKind::Unsupported, sentence));
            }
        };
        if blob.len() < kind.public_key_length() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the agent's key is too short",
            ));
        }
        Ok(AgentKey {
            socket: socket.into(),
            blob: blob.into(),
            kind,
        })
    }

    /// The public key as a certificate holds it: the point or the 32 bytes in the last string of the blob.
    pub(crate) fn public_key_bytes(&self) -> &[u8] {
        &self.blob[self.blob.len() - self.kind.public_key_length()..]
    }

    fn scheme(&self) -> SignatureScheme {
        match self.kind {
            Kind::P256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Kind::Ed25519 => SignatureScheme::ED25519,
        }
    }

    fn ask_to_sign(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        let mut request = vec![SIGN];
        for part in [&self.blob[..], message] {
            request.extend((part.len() as u32).to_be_bytes());
            request.extend(part);
        }
        request.extend([0; 4]); // no flags
        let answer = ask(&self.socket, &request, SIGNATURE)?;
        let mut signature = string(&mut &answer[..])?;
        string(&mut signature)?; // the algorithm
        let mut signature = string(&mut signature)?;
        match self.kind {
            Kind::P256 => {
                let (r, s) = (string(&mut signature)?, string(&mut signature)?);
                Ok(asyncjob_rustls::ecdsa_signature(r, s))
            }
            Kind::Ed25519 => Ok(signature.to_vec()),
        }
    }
}

impl SigningKey for AgentKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&AgentKey::scheme(self))
            .then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        let algorithm = match self.kind {
            Kind::P256 => alg_id::ECDSA_P256,
            Kind::Ed25519 => alg_id::ED25519,
        };
        Some(public_key_to_spki(&algorithm, self.public_key_bytes()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.kind {
            Kind::P256 => SignatureAlgorithm::ECDSA,
            Kind::Ed25519 => SignatureAlgorithm::ED25519,
        }
    }
}

impl Signer for AgentKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let signed = self.ask_to_sign(message);
        signed.map_err(|error| rustls::Error::Other(OtherError(Arc::new(error))))
    }

    fn scheme(&self) -> SignatureScheme {
        AgentKey::scheme(self)
    }
}

/// Sends a request and reads its answer. The code is that for a blocking socket, except for `Pausing`.
fn ask(socket: &Path, request: &[u8], expected: u8) -> io::Result<Vec<u8>> {
    let mut agent = Pausing::new(UnixStream::connect(socket)?)?;
    agent.write_all(&[&(request.len() as u32).to_be_bytes()[..], request].concat())?;
    let mut length = [0; 4];
    agent.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if !(1..=LONGEST_ANSWER).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut answer = vec![0; length];
    agent.read_exact(&mut answer)?;
    match answer[0] == expected {
        true => Ok(answer.split_off(1)),
        false => Err(io::Error::other("the ssh-agent refused")),
    }
}

fn number(from: &mut &[u8]) -> io::Result<usize> {
    let (number, rest) = from.split_first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
    *from = rest;
    Ok(u32::from_be_bytes(*number) as usize)
}

fn string<'a>(from: &mut &'a [u8]) -> io::Result<&'a [u8]> {
    let length = number(from)?;
    let (string, rest) = from.split_at_checked(length).ok_or(io::ErrorKind::UnexpectedEof)?;
    *from = rest;
    Ok(string)
}
