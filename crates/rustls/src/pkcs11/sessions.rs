//! The sessions of a key, and the logins of its token.
//!
//! ```text
//!                        a session that is idle
//!   sign() ---> queue --<                           >---> signature ---> idle again, or to the first in the queue
//!               first in  a permit: open and log in             |
//!               first out                                       | any error that is not the request's own fault
//!                                                               v
//!                                          that session is closed; once more, on a new one under the same permit
//! ```
//!
//! A **permit** is the right to have one session open. There are as many as the caller allows, or as the token has
//! shown to have: when it answers `CKR_SESSION_COUNT`, the sessions that are open are the bound, and the rest wait. The
//! bound is forgotten after a minute, because other programs take sessions and give them back.
//!
//! A pool of connections, such as `r2d2`, has a size that is known at first. It connects again and again where that
//! fails, and would send a wrong PIN each time.
//!
//! A **login** counts for the whole process. A PIN is tried once, by all keys of a token: when the token has refused
//! it, no login is tried until the key is opened anew, because three wrong ones lock a token for good.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use std::{fmt, fs, io, mem};

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error as TokenError, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::KeyError;
use super::find::{self, Identity};

/// How long a bound that was learnt holds.
const BOUND_HOLDS: Duration = Duration::from_secs(60);
/// How many different errors are counted by name.
const MAX_REASONS: usize = 32;

/// The sessions of a [`TokenKey`](super::TokenKey): see [`TokenKey::session_stats`](super::TokenKey::session_stats).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Sessions that were opened.
    pub opened: u64,
    /// Sessions that were thrown away after an error.
    pub discarded: u64,
    /// Sessions that are open and not in use.
    pub idle: usize,
    /// Sessions that are in use, or being opened. One whose token hangs stays here.
    pub in_use: usize,
    /// Signatures that wait for a session.
    pub waiting: usize,
    /// Signatures that had to wait for a session.
    pub waited: u64,
    /// How many sessions the token has at most, if it has refused one more within the last minute.
    pub learnt_bound: Option<usize>,
    /// Times that a PIN was sent to the token.
    pub logins: u64,
    /// Whether the token has refused the PIN, so that no login is tried any more.
    pub logins_stopped: bool,
    /// Signatures that failed, the second attempt included.
    pub failed: u64,
    /// Each error that the token has answered, and how often. An error that a second attempt has made good is here,
    /// too.
    pub errors: BTreeMap<String, u64>,
}

/// Where a PIN comes from.
#[derive(Clone)]
pub(super) enum Pin {
    Value(AuthPin),
    File(PathBuf),
    Fetch(Arc<FetchPin>),
}

type FetchPin = dyn Fn() -> io::Result<AuthPin> + Send + Sync;

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pin::Value(_) => f.write_str("Value(..)"),
            Pin::File(path) => f.debug_tuple("File").field(path).finish(),
            Pin::Fetch(_) => f.write_str("Fetch(..)"),
        }
    }
}

impl Pin {
    fn fetch(&self) -> io::Result<AuthPin> {
        match self {
            Pin::Value(pin) => Ok(pin.clone()),
            Pin::Fetch(fetch) => fetch(),
            Pin::File(path) => {
                let content = Zeroizing::new(fs::read(path)?);
                let pin = std::str::from_utf8(&content).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
                // Editors and `echo` end a file with a newline, which is no part of the PIN.
                Ok(AuthPin::new(pin.trim_end_matches(['\r', '\n']).into()))
            }
        }
    }
}

/// A token that was found, and the logins to it.
pub(super) struct Token {
    pub(super) pkcs11: Pkcs11,
    label: String,
    serial: String,
    /// Only if the caller named the slot. After a restart of the library a token may be in another one, as with
    /// SoftHSM.
    slot_id: Option<u64>,
    pin: Option<Pin>,
    shared: Arc<Logins>,
    /// How many keys had been opened before this one.
    number: u64,
    /// Whether the PIN was refused.
    is_stopped: AtomicBool,
    /// How long a signature waits for a session, or for the login of another thread, which may hang.
    patience: Duration,
    logins: AtomicU64,
}

/// The logins to one token, by each key of the process that is in it. One at a time, so that two keys or two threads do
/// not send a wrong PIN twice.
#[derive(Default)]
struct Logins {
    state: Mutex<LoginState>,
    ended: Condvar,
}

#[derive(Default)]
struct LoginState {
    goes_on: bool,
    keys_opened: u64,
    /// Each PIN that was refused, and how many keys had been opened by then. `None` is what a PIN pad was given.
    refused: Vec<(Option<AuthPin>, u64)>,
}

/// The right to log in. Its drop lets the next thread log in.
struct LoginTurn<'a>(&'a Token);

/// A session that is closed when it is dropped.
pub(super) struct OpenSession {
    // `None` only if the library has forgotten it. Its own drop does not close it.
    session: Option<Session>,
    /// Whether to log out first: this session has logged the process in, and may turn out not to be needed.
    pub(super) log_out: bool,
    /// What the library said of the session when it was opened.
    kind: Option<SessionKind>,
}

type SessionKind = (Slot, SessionState);

impl Deref for OpenSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session.as_ref().expect("it is open until it is dropped")
    }
}

impl OpenSession {
    /// For a session that the library may have forgotten. Another session may have its number then: after a restart of
    /// the library its numbers begin anew, with nobody logged in. So the session is left alone if the library does not
    /// know that number, or says of it something else than when the session was opened. Any other answer is that of a
    /// library that knows it: a session that stays open is a loss for ever.
    fn close_if_it_lives(mut self) {
        let is_gone = match self.session.as_ref().map(kind) {
            Some(Ok(kind)) => self.kind.is_some_and(|opened| opened != kind),
            Some(Err(TokenError::Pkcs11(answer, _))) => is_unknown(answer),
            _ => false,
        };
        if is_gone {
            self.session = None;
        }
    }
}

fn kind(session: &Session) -> Result<SessionKind, TokenError> {
    let info = session.get_session_info()?;
    Ok((info.slot_id(), info.session_state()))
}

/// The library says that it does not know the session.
fn is_unknown(answer: RvError) -> bool {
    matches!(
        answer,
        RvError::CryptokiNotInitialized | RvError::SessionClosed | RvError::SessionHandleInvalid
    )
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            if self.log_out {
                let _ = session.logout();
            }
            let _ = session.close();
        }
    }
}

impl Token {
    pub(super) fn new(
        pkcs11: Pkcs11,
        info: &TokenInfo,
        slot_id: Option<u64>,
        pin: Option<Pin>,
        patience: Duration,
    ) -> Token {
        let shared = Logins::of(info);
        let mut state = shared.state();
        let number = state.keys_opened;
        state.keys_opened += 1;
        drop(state);
        Token {
            pkcs11,
            label: info.label().into(),
            serial: info.serial_number().into(),
            slot_id,
            pin,
            shared,
            number,
            is_stopped: AtomicBool::new(false),
            patience,
            logins: AtomicU64::new(0),
        }
    }

    pub(super) fn name(&self) -> String {
        find::token_name(&self.label, &self.serial)
    }

    fn slot(&self) -> Result<Slot, KeyError> {
        let tokens = find::tokens(&self.pkcs11)?;
        let is_it = |slot: &Slot, info: &TokenInfo| {
            info.label() == self.label
                && info.serial_number() == self.serial
                && self.slot_id.is_none_or(|id| id == slot.id())
        };
        let found = tokens.iter().find(|(slot, info)| is_it(slot, info));
        found.map(|(slot, _)| *slot).ok_or_else(|| KeyError::NoToken {
            wanted: self.name(),
            present: find::names(&tokens),
        })
    }

    /// A session that is logged in, if the token asks for logins.
    pub(super) fn open(&self, slot: Slot) -> Result<OpenSession, KeyError> {
        let mut session = OpenSession {
            session: Some(self.pkcs11.open_ro_session_no_drop(slot)?),
            log_out: false,
            kind: None,
        };
        session.log_out = self.log_in(&session, slot)?;
        session.kind = Some(kind(&session)?);
        Ok(session)
    }

    /// Whether it was this call that has logged in.
    fn log_in(&self, session: &Session, slot: Slot) -> Result<bool, KeyError> {
        if !self.pkcs11.get_token_info(slot)?.login_required() || is_logged_in(session)? {
            return Ok(false);
        }
        let turn = self.login_turn()?;
        // Another thread may have logged in meanwhile, or may have been refused.
        if is_logged_in(session)? {
            return Ok(false);
        }
        turn.send_pin(slot, session, UserType::User)
    }

    /// The login that a key asks for in the middle of each signature.
    pub(super) fn log_in_for_signature(&self, session: &Session) -> Result<(), KeyError> {
        let turn = self.login_turn()?;
        let slot = session.get_session_info()?.slot_id();
        turn.send_pin(slot, session, UserType::ContextSpecific).map(drop)
    }

    fn login_turn(&self) -> Result<LoginTurn<'_>, KeyError> {
        let Logins { ended, .. } = &*self.shared;
        let waited = ended.wait_timeout_while(self.shared.state(), self.patience, |state| state.goes_on);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(KeyError::LoginHangs {
                token: self.name(),
                waited: self.patience,
            });
        }
        state.goes_on = true;
        Ok(LoginTurn(self))
    }
}

impl Logins {
    /// The same for each key in the token, as long as there is one.
    fn of(token: &TokenInfo) -> Arc<Logins> {
        static TOKENS: Mutex<Vec<([String; 4], Weak<Logins>)>> = Mutex::new(Vec::new());
        let names = [
            token.serial_number(),
            token.label(),
            token.model(),
            token.manufacturer_id(),
        ]
        .map(String::from);
        let mut tokens = TOKENS.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|(_, logins)| logins.strong_count() > 0);
        let known = tokens.iter().find(|(others, _)| *others == names);
        if let Some(logins) = known.and_then(|(_, logins)| logins.upgrade()) {
            return logins;
        }
        let logins = Arc::default();
        tokens.push((names, Arc::downgrade(&logins)));
        logins
    }

    fn state(&self) -> MutexGuard<'_, LoginState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoginState {
    /// When this PIN was refused, in keys that had been opened by then.
    fn refusal(&mut self, pin: Option<&AuthPin>) -> Option<&mut u64> {
        let is_it = |refused: &Option<AuthPin>| match (refused, pin) {
            (Some(refused), Some(pin)) => refused.expose_secret() == pin.expose_secret(),
            (refused, pin) => refused.is_none() && pin.is_none(),
        };
        let found = self.refused.iter_mut().find(|(refused, _)| is_it(refused));
        found.map(|(_, at)| at)
    }
}

impl Drop for LoginTurn<'_> {
    fn drop(&mut self) {
        self.0.shared.state().goes_on = false;
        self.0.shared.ended.notify_one();
    }
}

impl LoginTurn<'_> {
    fn send_pin(&self, slot: Slot, session: &Session, user: UserType) -> Result<bool, KeyError> {
        let token = self.0.name();
        let info = self.0.pkcs11.get_token_info(slot)?;
        if self.0.is_stopped.load(Ordering::Relaxed) {
            return Err(KeyError::LoginsStopped { token });
        }
        if info.user_pin_locked() {
            return Err(KeyError::PinLocked { token });
        }
        if info.user_pin_final_try() {
            return Err(KeyError::PinFinalTry { token });
        }
        let pin = match &self.0.pin {
            // The token has keys or a reader of its own for the PIN.
            _ if info.protected_authentication_path() => None,
            Some(pin) => Some(pin.fetch().map_err(KeyError::PinSource)?),
            None => None,
        };
        // An empty file or variable is no PIN, and the token would count it as a wrong one.
        let is_missing = pin.as_ref().is_none_or(|pin| pin.expose_secret().is_empty());
        if is_missing && !info.protected_authentication_path() {
            return Err(KeyError::NoPin { token });
        }
        // By another key of this token, after this one was opened.
        let refused = self.0.shared.state().refusal(pin.as_ref()).copied();
        if refused.is_some_and(|at| at > self.0.number) {
            self.0.is_stopped.store(true, Ordering::Relaxed);
            return Err(KeyError::LoginsStopped { token });
        }
        self.0.logins.fetch_add(1, Ordering::Relaxed);
        match session.login(user, pin.as_ref()) {
            Ok(()) => Ok(true),
            // Another session has logged in since we looked.
            Err(TokenError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(false),
            Err(source) if is_refusal(&source) || self.was_counted(slot) => {
                self.refused(pin);
                Err(KeyError::PinRefused { token, source })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn refused(&self, pin: Option<AuthPin>) {
        self.0.is_stopped.store(true, Ordering::Relaxed);
        let mut state = self.0.shared.state();
        let at = state.keys_opened;
        match state.refusal(pin.as_ref()) {
            Some(refused) => *refused = at,
            None => state.refused.push((pin, at)),
        }
    }

    /// Whether the token has counted a wrong PIN since the last right one. Some tokens answer a wrong PIN by an error
    /// of their own, and the next attempts would lock them.
    fn was_counted(&self, slot: Slot) -> bool {
        let info = self.0.pkcs11.get_token_info(slot);
        info.is_ok_and(|info| info.user_pin_count_low() || info.user_pin_final_try() || info.user_pin_locked())
    }
}

fn is_logged_in(session: &Session) -> Result<bool, TokenError> {
    let state = session.get_session_info()?.session_state();
    Ok(matches!(state, SessionState::RoUser | SessionState::RwUser))
}

fn is_refusal(error: &TokenError) -> bool {
    let TokenError::Pkcs11(answer, _) = error else {
        return false;
    };
    matches!(
        answer,
        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange | RvError::PinExpired | RvError::PinLocked
    )
}

/// A session, and the handle of the key in that session.
pub(super) struct KeySession {
    session: OpenSession,
    key: ObjectHandle,
    /// A signature of this session has been verified. Until then its key may be another one: it was looked for anew.
    pub(super) is_proven: bool,
    generation: u64,
}

impl KeySession {
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    pub(super) fn key(&self) -> ObjectHandle {
        self.key
    }
}

/// The sessions of one key.
pub(super) struct Sessions {
    pub(super) token: Token,
    pub(super) key: Identity,
    max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<KeySession>,
    /// Sessions that are open or being opened, the idle ones included.
    permits: usize,
    learnt: Option<(usize, Instant)>,
    queue: VecDeque<(u64, Sender<Grant>)>,
    next_in_queue: u64,
    /// Counts the times that all sessions were gone at once, as after a restart of the library.
    generation: u64,
    opened: u64,
    discarded: u64,
    waited: u64,
    failed: u64,
    errors: BTreeMap<String, u64>,
}

/// What the first in the queue gets.
enum Grant {
    Session(KeySession),
    Permit,
}

/// The right to have one session, and that session. Its drop closes the session and frees the permit.
struct Permit<'a> {
    sessions: &'a Sessions,
    session: Option<KeySession>,
    /// Whether the permit was given back already.
    is_returned: bool,
}

impl Sessions {
    pub(super) fn new(token: Token, key: Identity, first: (OpenSession, ObjectHandle), max: usize) -> Sessions {
        let first = KeySession {
            session: first.0,
            key: first.1,
            is_proven: true,
            generation: 0,
        };
        let state = State {
            idle: vec![first],
            permits: 1,
            opened: 1,
            ..State::default()
        };
        Sessions {
            token,
            key,
            max: max.max(1),
            state: Mutex::new(state),
        }
    }

    /// Does `work` on a session. After an error that is not the request's own fault, does it once more on a new one.
    pub(super) fn with_session<T>(&self, work: impl Fn(&mut KeySession) -> Result<T, KeyError>) -> Result<T, KeyError> {
        let result = self
            .permit()
            .and_then(|mut permit| match self.attempt(&mut permit, &work) {
                Err(error) if fate(&error).is_worth_another() && !permit.is_returned => {
                    self.attempt(&mut permit, &work)
                }
                result => result,
            });
        if result.is_err() {
            self.state().failed += 1;
        }
        result
    }

    fn attempt<'a, T>(
        &'a self,
        permit: &mut Permit<'a>,
        work: &impl Fn(&mut KeySession) -> Result<T, KeyError>,
    ) -> Result<T, KeyError> {
        let result = self.fill(permit).and_then(work);
        match &result {
            Ok(_) => permit.give_back(),
            Err(error) => {
                let fate = fate(error);
                self.state().count(error);
                match fate {
                    Fate::Kept => permit.give_back(),
                    Fate::Closed | Fate::ClosedForGood => drop(permit.take()),
                    Fate::AllClosed => {
                        drop(permit.take());
                        self.close_idle();
                    }
                    Fate::AllGone => self.forget_all(permit.take()),
                }
            }
        }
        result
    }

    /// Opens a session, if the permit has none.
    fn fill<'a, 's>(&'a self, permit: &'s mut Permit<'a>) -> Result<&'s mut KeySession, KeyError> {
        while permit.session.is_none() {
            match self.open() {
                Ok(session) => permit.session = Some(session),
                Err(KeyError::Token(error @ TokenError::Pkcs11(RvError::SessionCount, _))) => {
                    self.wait_instead(permit, error)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(permit.session.as_mut().expect("it was filled"))
    }

    fn open(&self) -> Result<KeySession, KeyError> {
        let generation = self.state().generation;
        let mut session = self.token.open(self.token.slot()?)?;
        let key = find::again(&session, &self.key, &self.token)?;
        session.log_out = false;
        self.state().opened += 1;
        Ok(KeySession {
            session,
            key,
            is_proven: false,
            generation,
        })
    }

    /// A permit, with an idle session if there is one. Waits in the queue if all permits are taken.
    fn permit(&self) -> Result<Permit<'_>, KeyError> {
        let mut state = self.state();
        let (number, granted) = state.enter_queue();
        self.serve_queue(&mut state);
        state.waited += u64::from(state.is_in_queue(number));
        drop(state);
        self.wait(number, &granted)
    }

    /// The token has no session left for this permit. Learns the bound, and waits for the session of another permit,
    /// before those that came later.
    fn wait_instead<'a>(&'a self, permit: &mut Permit<'a>, error: TokenError) -> Result<(), KeyError> {
        let mut state = self.state();
        state.permits -= 1;
        permit.is_returned = true;
        if state.permits == 0 {
            // Other programs, or other keys, have them all. There is none to wait for.
            self.serve_queue(&mut state);
            return Err(error.into());
        }
        state.learnt = Some((state.permits, Instant::now()));
        let (number, granted) = state.enter_queue();
        // From the back to the front.
        state.queue.rotate_right(1);
        self.serve_queue(&mut state);
        state.waited += u64::from(state.is_in_queue(number));
        drop(state);
        *permit = self.wait(number, &granted)?;
        Ok(())
    }

    fn wait(&self, number: u64, granted: &Receiver<Grant>) -> Result<Permit<'_>, KeyError> {
        let permit = |session| Permit {
            sessions: self,
            session,
            is_returned: false,
        };
        let grant = match granted.recv_timeout(self.token.patience) {
            Ok(grant) => Some(grant),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                let mut state = self.state();
                state.queue.retain(|(other, _)| *other != number);
                // A grant is sent under the lock: it is here, or will never be.
                granted.try_recv().ok()
            }
        };
        match grant {
            Some(Grant::Session(session)) => Ok(permit(Some(session))),
            Some(Grant::Permit) => Ok(permit(None)),
            None => Err(KeyError::NoSession {
                token: self.token.name(),
                waited: self.token.patience,
            }),
        }
    }

    /// Gives idle sessions and free permits to the first in the queue.
    fn serve_queue(&self, state: &mut State) {
        while !state.queue.is_empty() {
            let grant = if let Some(session) = state.idle.pop() {
                Grant::Session(session)
            } else if state.permits < state.bound(self.max) {
                state.permits += 1;
                Grant::Permit
            } else {
                return;
            };
            let (_, first) = state.queue.pop_front().expect("it is not empty");
            // The receiver leaves the queue before it goes.
            let _ = first.send(grant);
        }
    }

    fn close_idle(&self) {
        let mut state = self.state();
        let idle = mem::take(&mut state.idle);
        state.permits -= idle.len();
        state.discarded += idle.len() as u64;
        self.serve_queue(&mut state);
        drop(state);
        drop(idle);
    }

    /// The library does not know `session` any more. After its restart it knows none of the others either, and may give
    /// their numbers to new sessions. So none is used again, and those that live are closed.
    fn forget_all(&self, session: Option<KeySession>) {
        let mut state = self.state();
        let mut gone = Vec::new();
        if session
            .as_ref()
            .is_none_or(|session| session.generation == state.generation)
        {
            state.generation += 1;
            gone = mem::take(&mut state.idle);
            state.discarded += gone.len() as u64;
        }
        drop(state);
        let idle = gone.len();
        let all = gone.into_iter().chain(session);
        all.for_each(|session| session.session.close_if_it_lives());
        // Only now: the next session that is opened finds their places.
        let mut state = self.state();
        state.permits -= idle;
        self.serve_queue(&mut state);
    }

    pub(super) fn stats(&self) -> SessionStats {
        let state = self.state();
        SessionStats {
            opened: state.opened,
            discarded: state.discarded,
            idle: state.idle.len(),
            in_use: state.permits - state.idle.len(),
            waiting: state.queue.len(),
            waited: state.waited,
            learnt_bound: state.learnt_bound(),
            logins: self.token.logins.load(Ordering::Relaxed),
            logins_stopped: self.token.is_stopped.load(Ordering::Relaxed),
            failed: state.failed,
            errors: state.errors.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter_queue(&mut self) -> (u64, Receiver<Grant>) {
        let (grant, granted) = channel();
        let number = self.next_in_queue;
        self.next_in_queue += 1;
        self.queue.push_back((number, grant));
        (number, granted)
    }

    fn is_in_queue(&self, number: u64) -> bool {
        self.queue.iter().any(|(other, _)| *other == number)
    }

    fn learnt_bound(&self) -> Option<usize> {
        self.learnt
            .filter(|(_, at)| at.elapsed() < BOUND_HOLDS)
            .map(|(bound, _)| bound)
    }

    fn bound(&self, max: usize) -> usize {
        self.learnt_bound().map_or(max, |learnt| learnt.min(max))
    }

    fn count(&mut self, error: &KeyError) {
        let reason = match error {
            KeyError::Token(TokenError::Pkcs11(answer, _))
            | KeyError::PinRefused {
                source: TokenError::Pkcs11(answer, _),
                ..
            } => format!("{answer:?}"),
            KeyError::Token(_) => "Library".into(),
            KeyError::NoKey { .. } | KeyError::ManyKeys { .. } => "KeyNotFound".into(),
            KeyError::WrongPair { .. } => "WrongPair".into(),
            KeyError::NoSession { .. } => "NoSession".into(),
            KeyError::NoToken { .. } => "TokenNotFound".into(),
            _ => "Login".into(),
        };
        if self.errors.len() < MAX_REASONS || self.errors.contains_key(&reason) {
            *self.errors.entry(reason).or_default() += 1;
        }
    }
}

impl Permit<'_> {
    /// The session is idle again, or goes to the first in the queue.
    fn give_back(&mut self) {
        let Some(session) = self.session.take() else { return };
        let mut state = self.sessions.state();
        if session.generation != state.generation {
            // The drop of the permit frees it.
            drop(state);
            return session.session.close_if_it_lives();
        }
        self.is_returned = true;
        state.idle.push(session);
        self.sessions.serve_queue(&mut state);
    }

    /// The session, to be closed. The permit is kept for the next one.
    fn take(&mut self) -> Option<KeySession> {
        let session = self.session.take()?;
        let mut state = self.sessions.state();
        state.discarded += 1;
        Some(session)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        drop(self.session.take());
        if !self.is_returned {
            let mut state = self.sessions.state();
            state.permits -= 1;
            self.sessions.serve_queue(&mut state);
        }
    }
}

/// What an error means for the sessions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The request was wrong, and the session is as good as before.
    Kept,
    /// The session is thrown away.
    Closed,
    /// The same, and a second attempt is of no use.
    ClosedForGood,
    /// What killed this session has killed the idle ones.
    AllClosed,
    /// The library has forgotten the sessions.
    AllGone,
}

impl Fate {
    fn is_worth_another(self) -> bool {
        !matches!(self, Fate::Kept | Fate::ClosedForGood)
    }
}

fn fate(error: &KeyError) -> Fate {
    let answer = match error {
        KeyError::Token(TokenError::Pkcs11(answer, _)) => *answer,
        KeyError::Token(_) | KeyError::WrongPair { .. } | KeyError::NoKey { .. } | KeyError::NoToken { .. } => {
            return Fate::Closed;
        }
        _ => return Fate::ClosedForGood,
    };
    match answer {
        RvError::DataInvalid
        | RvError::DataLenRange
        | RvError::FunctionNotSupported
        | RvError::KeyFunctionNotPermitted
        | RvError::KeySizeRange
        | RvError::KeyTypeInconsistent
        | RvError::MechanismInvalid
        | RvError::MechanismParamInvalid => Fate::Kept,
        RvError::DeviceError | RvError::DeviceRemoved | RvError::TokenNotPresent | RvError::UserNotLoggedIn => {
            Fate::AllClosed
        }
        answer if is_unknown(answer) => Fate::AllGone,
        // None of ours came back, and no attempt opens one.
        RvError::SessionCount => Fate::ClosedForGood,
        _ => Fate::Closed,
    }
}
