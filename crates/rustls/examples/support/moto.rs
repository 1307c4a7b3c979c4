//! A key service on this machine: the server of the Python package `moto`, which speaks the protocol of AWS KMS.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, process, thread};

use asyncjob_testing::tools::MOTO;
use serde_json::{Value, json};

use crate::kms::AUTHORIZATION;

/// The name of the key in the service.
pub(crate) const KEY: &str = "alias/tls";

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
            .arg(self.port.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.server = Some(server);
        self.wait_until_it_listens()?;
        let made = self.post("CreateKey", &json!({ "KeyUsage": "SIGN_VERIFY", "KeySpec": self.spec }))?;
        let key = &made["KeyMetadata"]["KeyId"];
        self.post("CreateAlias", &json!({ "AliasName": KEY, "TargetKeyId": key }))?;
        Ok(())
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

    /// A request of the program that sets the service up: it may block.
    fn post(&self, action: &str, request: &Value) -> Result<Value, Box<dyn Error>> {
        use std::io::{Read, Write};
        let body = request.to_string();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        write!(
            stream,
            "POST / HTTP/1.0\r\nhost: 127.0.0.1\r\nx-amz-target: TrentService.{action}\r\n\
             authorization: {AUTHORIZATION}\r\ncontent-type: application/x-amz-json-1.1\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("moto has answered nothing")?;
        match head.contains(" 200 ") {
            true => Ok(serde_json::from_str(body)?),
            false => Err(format!("moto answers to {action}: {answer}").into()),
        }
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
