//! A SoftHSM token in a directory of its own, which is removed at the end.
//!
//! SoftHSM reads the name of its configuration from the environment. It is not safe to change the environment of a
//! running process. So the program starts itself once more, with the name in the environment: [`with_config`].

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, fs, io, process};

use asyncjob_rustls::pkcs11::{KeyError, TokenKey};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

const CONFIG: &str = "SOFTHSM2_CONF";
const LABEL: &str = "asyncjob";
const OFFICER_PIN: &str = "87654321";
const USER_PIN: &str = "12345678";
/// The object identifier of the curve P-256 (RFC 5480), in DER.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// A token with one P-256 key and one RSA key of 2,048 bits.
pub(crate) struct SoftHsm {
    pub(crate) pkcs11: Pkcs11,
}

/// Runs this program again, with these arguments and a token directory of its own. `None` if this is the second run
/// already.
pub(crate) fn with_config(arguments: impl IntoIterator<Item = String>) -> io::Result<Option<ExitStatus>> {
    if env::var_os(CONFIG).is_some() {
        return Ok(None);
    }
    // The tests of one process run at the same time, so the process id alone is not enough.
    static DIRECTORIES: AtomicU64 = AtomicU64::new(0);
    let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
    let directory = env::temp_dir().join(format!("asyncjob-softhsm-{}-{number}", process::id()));
    let tokens = directory.join("tokens");
    fs::create_dir_all(&tokens)?;
    let config = directory.join("softhsm2.conf");
    fs::write(
        &config,
        format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        ),
    )?;
    let status = Command::new(env::current_exe()?)
        .args(arguments)
        .env(CONFIG, &config)
        .status();
    fs::remove_dir_all(&directory)?;
    status.map(Some)
}

impl SoftHsm {
    /// Makes the token.
    pub(crate) fn create() -> Result<SoftHsm, Box<dyn Error>> {
        let pkcs11 = Pkcs11::new(library()?)?;
        pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
        let empty = *pkcs11.get_slots_with_token()?.first().ok_or("SoftHSM has no slot")?;
        pkcs11.init_token(empty, &pin(OFFICER_PIN), LABEL)?;
        // SoftHSM gives an initialised token another slot.
        let slot = *pkcs11
            .get_slots_with_initialized_token()?
            .first()
            .ok_or("SoftHSM has no initialised token")?;
        let session = pkcs11.open_rw_session(slot)?;
        session.login(UserType::So, Some(&pin(OFFICER_PIN)))?;
        session.init_pin(&pin(USER_PIN))?;
        session.logout()?;
        session.login(UserType::User, Some(&pin(USER_PIN)))?;
        let p256 = [Attribute::EcParams(P256.to_vec())];
        let rsa = [
            Attribute::ModulusBits(2048.into()),
            Attribute::PublicExponent(vec![1, 0, 1]),
        ];
        for (label, id, mechanism, parameters) in [
            ("p256", 1, Mechanism::EccKeyPairGen, &p256[..]),
            ("rsa", 2, Mechanism::RsaPkcsKeyPairGen, &rsa),
        ] {
            let ours = [
                Attribute::Token(true),
                Attribute::Label(label.into()),
                Attribute::Id(vec![id]),
            ];
            let public = [
                &ours[..],
                parameters,
                &[Attribute::Private(false), Attribute::Verify(true)],
            ]
            .concat();
            let private = [
                &ours[..],
                &[
                    Attribute::Private(true),
                    Attribute::Sensitive(true),
                    Attribute::Sign(true),
                ],
            ]
            .concat();
            session.generate_key_pair(&mechanism, &public, &private)?;
        }
        session.logout()?;
        Ok(SoftHsm { pkcs11 })
    }

    /// The key `p256` or `rsa`.
    pub(crate) fn key(&self, label: &str) -> Result<TokenKey, KeyError> {
        let uri = format!("pkcs11:token={LABEL};object={label}?pin-value={USER_PIN}");
        TokenKey::open(self.pkcs11.clone(), &uri)
    }
}

fn pin(digits: &str) -> AuthPin {
    AuthPin::new(digits.into())
}

pub(crate) fn library() -> Result<PathBuf, Box<dyn Error>> {
    const PATHS: [&str; 4] = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ];
    let found = PATHS.iter().map(Path::new).find(|path| path.exists());
    Ok(found
        .ok_or("libsofthsm2.so is not installed: `apt-get install softhsm2`")?
        .into())
}
