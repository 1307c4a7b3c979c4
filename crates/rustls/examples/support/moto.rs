//! A key service on this machine: the server of the Python package `moto`, which speaks the protocol of AWS KMS.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, process, thread};

use asyncjob_testing::tools::MOTO;
use aws_credential_types::Credentials;

use crate::kms::Account;

/// The name of the key in the service.
pub(crate) const KEY: &str = "alias/tls";

/// The only credentials that may ask for a signature. They are those of an example of AWS's documentation.
const CREDENTIALS: [&str; 2] = ["AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"];

/// The server. It ends when this is dropped, and its directory is removed.
pub(crate) struct Moto {
    server: Option<Child>,
    port: u16,
    spec: String,
    directory: PathBuf,
}

impl Moto {
    /// Starts a server with one key of this kind.
    pub(crate) fn start(spec: &str) -> Result<Moto, Box<dyn Error>> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let directory = env::temp_dir().join(format!("asyncjob-kms-{}-{port}", process::id()));
        fs::create_dir_all(&directory)?;
        let mut moto = Moto {
            server: None,
            port,
            spec: spec.to_owned(),
            directory,
        };
        moto.restart()?;
        Ok(moto)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Who may ask this server for signatures.
    pub(crate) fn account(&self) -> Account {
        let [id, secret] = CREDENTIALS;
        Account {
            credentials: Credentials::new(id, secret, None, None, "moto"),
            region: "us-east-1".into(),
        }
    }

    /// The process of the server.
    pub(crate) fn process(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// Stops the server as a crash does.
    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Starts the server again, on the same port and with the same key pair.
    pub(crate) fn restart(&mut self) -> Result<(), Box<dyn Error>> {
        self.stop();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/support/kms_server.py");
        let log = fs::File::create(self.directory.join("log"))?;
        let server = Command::new(python()?)
            .arg(script)
            .arg(&self.directory)
            .args([&self.port.to_string(), &self.spec, KEY])
            .args(CREDENTIALS)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.server = Some(server);
        self.wait_until_it_listens()
    }

    fn wait_until_it_listens(&mut self) -> Result<(), Box<dyn Error>> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.server.as_mut().and_then(|server| server.try_wait().transpose()) {
                let log = fs::read_to_string(self.directory.join("log"))?;
                return Err(format!("moto has ended: {}\n{log}", status?).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The interpreter that has moto: beside its program, if that is in an environment of its own.
fn python() -> Result<PathBuf, Box<dyn Error>> {
    let server = MOTO
        .path()
        .ok_or("moto_server is not in PATH: `.ci/moto` installs it, in target/moto/bin")?;
    let beside = server.parent().unwrap_or(Path::new("")).join("python3");
    Ok(if beside.exists() { beside } else { "python3".into() })
}
