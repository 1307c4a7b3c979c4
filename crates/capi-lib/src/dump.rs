//! A dump of the paused jobs, on a signal that the environment chooses: for the operator of a C program.
//!
//! ```text
//!   ASYNCJOB_DUMP_SIGNAL=RTMIN+3     the signal: a name, with or without SIG, or a number
//!   ASYNCJOB_DUMP_FILE=/a/path       where the dump goes; without it, to standard error
//! ```
//!
//! A server drops its rights, its root directory and its limits before its first job. So everything is arranged when
//! the loader loads this object, and for each process anew:
//!
//! ```text
//!   load     the environment is read, the file is opened, the handler is set, the thread is started
//!   fork     in the child: a thread of its own, before the program's code goes on
//!   signal   handler: posts a semaphore   --->  the thread: reads the stacks of the jobs from outside, and writes
//!                \
//!                 '--> no thread (a limit)?  -->  the next start or resume of a job: starts it, or writes itself
//! ```
//!
//! Without the first variable nothing is done at load and nothing later. With it, a process that never has a job has a
//! thread that sleeps and an fd. The thread cannot be made lazily: a process that may have no more threads is the usual
//! case, and a process that hangs calls nothing that could make it. The way without it costs a switch nothing, because
//! the handler sets the one word that a start or a resume looks at anyway ([`libcrypto::ask`]).

use std::env;
use std::ffi::{OsString, c_int};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::time::Duration;

use asyncjob::insight::{self, SignalRequests, spawn_for_signal};

use crate::boundary::guarded;
use crate::fork::Shared;
use crate::{libcrypto, slots};

const SIGNAL: &str = "ASYNCJOB_DUMP_SIGNAL";
const FILE: &str = "ASYNCJOB_DUMP_FILE";

/// The loader calls this before the program begins. A linker may leave it out of a program that is linked with the
/// library; then the first job makes up for it.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;

extern "C" fn at_load() {
    guarded((), arrange);
}

/// What the environment asks for.
struct Arranged {
    /// The signal, and what the environment calls it.
    signal: c_int,
    name: String,
    requests: SignalRequests,
    /// The action of the signal, as the system tells it.
    action: usize,
    /// Where the dump goes, if it does not go to standard error.
    path: Option<PathBuf>,
    /// The root directory in which that path means something.
    root: Option<FileId>,
    /// What standard error was.
    stderr: Option<FileId>,
}

/// `NULL` if nothing is asked for.
static ARRANGED: AtomicPtr<Arranged> = AtomicPtr::new(ptr::null_mut());
/// The process that has the thread. In a child of it there is none.
static HAS_THREAD: AtomicU32 = AtomicU32::new(0);
/// The file, while it is open. Nothing else is done under this lock: a fork waits for it.
static OPEN: Shared<Option<OpenFile>> = Shared::new(None);

fn arranged() -> Option<&'static Arranged> {
    // SAFETY: NULL, or a value that `arrange` leaked.
    unsafe { ARRANGED.load(Ordering::Acquire).as_ref() }
}

/// Does what the environment asks for, at the first call. Problems are reported on standard error, and stop nothing.
///
/// Later calls look whether the signal still leads here.
pub(crate) fn arrange() {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    if BEGUN.load(Ordering::Relaxed) || BEGUN.swap(true, Ordering::Relaxed) {
        return arranged().into_iter().for_each(Arranged::check_action);
    }
    // Whoever starts a program that runs with the rights of another user may not choose a file for it to write.
    let Some(name) = env::var_os(SIGNAL).filter(|_| !is_privileged()) else {
        return;
    };
    if let Err(problem) = dump_on(&name.to_string_lossy(), env::var_os(FILE)) {
        complain(&format!("{SIGNAL}={}: {problem}", name.display()));
    }
}

fn dump_on(name: &str, path: Option<OsString>) -> io::Result<()> {
    let signal = number_of(name).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "no signal has this name: write USR2 or RTMIN+3, for instance",
        )
    })?;
    // A daemon changes its directory.
    let path = path.map(|path| std::path::absolute(&path).unwrap_or_else(|_| path.into()));
    // SAFETY: the function compares two numbers and sets a third.
    let requests = unsafe { SignalRequests::count_and(signal, when_signalled) }?;
    let arranged = Box::new(Arranged {
        signal,
        name: name.to_owned(),
        requests,
        action: action_of(signal),
        root: FileId::of_path("/"),
        stderr: FileId::of(libc::STDERR_FILENO),
        path,
    });
    // The lock is known to forks before the handler below: it is free when that runs.
    let mut open = OPEN.lock();
    if let Some(path) = &arranged.path {
        match OpenFile::at(path) {
            Ok(file) => *open = Some(file),
            Err(problem) => complain(&format!(
                "{FILE}={}: cannot append to it: {problem}. The dump goes to standard error, unless the file can be \
                 opened then: name a file in a directory that exists, and where the process may write when it starts",
                path.display()
            )),
        }
    }
    drop(open);
    ARRANGED.store(Box::into_raw(arranged), Ordering::Release); // for the life of the process
    // SAFETY: the handler starts a thread. The loader never unloads this object (build.rs).
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    report_failed_start();
    Ok(())
}

/// The handler of the signal calls this.
fn when_signalled() {
    if !has_thread() {
        libcrypto::ask();
    }
}

/// Whether this process has the thread. A signal handler may ask.
fn has_thread() -> bool {
    HAS_THREAD.load(Ordering::Relaxed) == std::process::id()
}

extern "C" fn in_child() {
    HAS_THREAD.store(0, Ordering::Relaxed); // in a new namespace the child may have the number of its parent
    guarded((), || {
        if let Some(arranged) = arranged() {
            arranged.requests.take(); // those are the parent's
            report_failed_start();
        }
    });
}

/// Starts the thread of this process.
fn start(arranged: &'static Arranged) -> io::Result<()> {
    let answer = || {
        loop {
            arranged.requests.wait();
            guarded((), || arranged.dump(None));
        }
    };
    spawn_for_signal(arranged.signal, "asyncjob-dump", answer)?;
    HAS_THREAD.store(std::process::id(), Ordering::Relaxed);
    Ok(())
}

fn report_failed_start() {
    let Some(arranged) = arranged() else { return };
    if let Err(problem) = start(arranged) {
        complain(&format!("{SIGNAL}={}: {}", arranged.name, no_thread(&problem)));
    }
}

/// A start or a resume of a job calls this if a signal has come and this process has no thread.
#[cold]
pub(crate) fn answer() {
    let Some(arranged) = arranged().filter(|_| !has_thread()) else {
        return;
    };
    guarded((), || {
        // The limit may be another one now, or this is a child of which no handler was told.
        if let Err(problem) = start(arranged)
            && arranged.requests.take()
        {
            arranged.dump(Some(&no_thread(&problem)));
        }
    });
}

fn no_thread(problem: &io::Error) -> String {
    let limit = match processes_allowed() {
        Some(libc::RLIM_INFINITY) | None => "RLIMIT_NPROC has no bound here, so a cgroup may have one".to_owned(),
        Some(limit) => format!("RLIMIT_NPROC is {limit} here"),
    };
    format!(
        "the thread asyncjob-dump of process {} cannot be started: {problem}. {limit}. The thread of the program that \
         next starts or resumes a job makes the dump instead. To have it at any time, let the process have one thread \
         more: ulimit -u, or LimitNPROC= and TasksMax= of its systemd unit",
        std::process::id(),
    )
}

/// The soft limit on the processes and threads of the user.
fn processes_allowed() -> Option<libc::rlim_t> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the call fills the struct in.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NPROC, &mut limit) };
    (read == 0).then_some(limit.rlim_cur)
}

impl Arranged {
    /// Makes the dump and writes it. `instead` says why no thread of this library does.
    fn dump(&self, instead: Option<&str>) {
        let dump = insight::dump(Duration::from_secs(1));
        let mut text = format!("process {}, {}\n", std::process::id(), now());
        if let Some(reason) = instead {
            let _ = writeln!(text, "{reason}");
        }
        let _ = write!(text, "{dump}");
        let forgotten = slots::forgotten_jobs();
        if forgotten > 0 {
            let _ = writeln!(
                text,
                "\npaused jobs whose wait ctx was freed by ASYNC_WAIT_CTX_free: {forgotten}"
            );
        }
        text.push('\n'); // the end of the dump, for its readers
        if let Err(problem) = self.write(&text) {
            complain(&format!("the dump could not be written: {problem}"));
        }
    }

    /// Writes the text in one piece.
    fn write(&self, text: &str) -> io::Result<()> {
        let Some(path) = &self.path else {
            return to_stderr(text);
        };
        match self.file(path) {
            Ok(file) => write_all(file, text),
            Err(problem) => to_stderr(&format!(
                "asyncjob: {FILE}={}: cannot append to it: {problem}. So the dump is here\n{text}",
                path.display()
            )),
        }
    }

    /// The file, under an fd of its own: what the program does with ours meanwhile does not matter.
    ///
    /// The program may have closed the fd and have another file under its number. The file may have been renamed, as
    /// log files are; then one of that name is opened, if the process may do so and the name means what it did.
    fn file(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut open = OPEN.lock();
        let ours = open.as_ref().and_then(OpenFile::duplicate);
        let same_root = FileId::of_path("/") == self.root;
        let is_there = open.as_ref().map(|file| file.id) == FileId::of_path(path);
        match ours {
            Some(ours) if is_there || !same_root => Ok(ours),
            Some(ours) => match OpenFile::at(path) {
                Ok(new) => {
                    if let Some(old) = open.replace(new) {
                        old.close();
                    }
                    open.as_ref().and_then(OpenFile::duplicate).ok_or_else(closed)
                }
                Err(_) => Ok(ours),
            },
            None => open.insert(OpenFile::at(path)?).duplicate().ok_or_else(closed),
        }
    }

    /// Says it, once, if the program has taken the signal for itself.
    #[cold]
    fn check_action(&self) {
        static SAID: AtomicBool = AtomicBool::new(false);
        if action_of(self.signal) != self.action && !SAID.swap(true, Ordering::Relaxed) {
            complain(&format!(
                "{SIGNAL}={}: the program has set an action of its own for this signal, so there is no dump: choose a \
                 signal that it does not use, RTMIN+3 for instance",
                self.name
            ));
        }
    }
}

fn closed() -> io::Error {
    io::Error::other("the program closes it at once")
}

/// The file that an fd leads to, or a path.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    number: u64,
}

impl FileId {
    /// `None` if the fd is closed.
    fn of(fd: RawFd) -> Option<Self> {
        stat(fd).map(|stat| FileId {
            device: stat.st_dev,
            number: stat.st_ino,
        })
    }

    fn of_path(path: impl AsRef<Path>) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(FileId {
            device: found.dev(),
            number: found.ino(),
        })
    }
}

/// A file that the program has not opened, under a number that the program may close.
struct OpenFile {
    fd: RawFd,
    id: FileId,
}

impl OpenFile {
    /// Opens it for appending, and makes it if there is none. A pipe that no program reads is an error: the open would
    /// wait for a reader.
    fn at(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)?;
        // A program that was started without standard error does not expect to find this file there.
        let fd = duplicate(file.as_raw_fd())?;
        // SAFETY: the call sets the flags of the file.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_APPEND) };
        let id = FileId::of(fd.as_raw_fd()).ok_or_else(closed)?;
        Ok(OpenFile {
            fd: fd.into_raw_fd(),
            id,
        })
    }

    /// `None` if the number leads to another file by now, or to none.
    fn duplicate(&self) -> Option<OwnedFd> {
        let fd = duplicate(self.fd).ok()?;
        (FileId::of(fd.as_raw_fd()) == Some(self.id)).then_some(fd)
    }

    /// The caller has just seen that the number leads to the file.
    fn close(self) {
        // SAFETY: the fd is this value's own. If the program has closed it in this moment, the call closes what it has
        // opened since, as any race of two that close one number.
        drop(unsafe { OwnedFd::from_raw_fd(self.fd) });
    }
}

/// A new fd above those of standard input, output and error.
fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let new = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if new < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the fd is new, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

fn stat(fd: RawFd) -> Option<libc::stat> {
    let mut stat = MaybeUninit::uninit();
    // SAFETY: the call fills `stat` in, or fails.
    let read = unsafe { libc::fstat(fd, stat.as_mut_ptr()) };
    // SAFETY: filled in.
    (read == 0).then(|| unsafe { stat.assume_init() })
}

/// Writes to standard error, unless its number is that of a connection now. std's own is behind a lock, which another
/// thread may have had at a fork.
fn to_stderr(text: &str) -> io::Result<()> {
    let fd = duplicate(libc::STDERR_FILENO)?;
    let is_socket = stat(fd.as_raw_fd()).is_some_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFSOCK);
    let at_load = arranged().and_then(|arranged| arranged.stderr);
    if is_socket && arranged().is_some() && FileId::of(fd.as_raw_fd()) != at_load {
        return Err(io::Error::other(format!(
            "standard error is a socket of the program: set {FILE}"
        )));
    }
    write_all(fd, text)
}

/// Writes all of it. To write into a pipe that no program reads any more would end this program, if it lets `SIGPIPE`
/// do so and this is a thread of its own.
fn write_all(fd: OwnedFd, text: &str) -> io::Result<()> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: the pollfd is valid during the call, and the count is one.
    let ready = unsafe { libc::poll(&mut poll, 1, 0) };
    if ready > 0 && poll.revents & (libc::POLLERR | libc::POLLHUP) != 0 {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    File::from(fd).write_all(text.as_bytes())
}

fn complain(problem: &str) {
    let _ = to_stderr(&format!("asyncjob: {problem}\n"));
}

/// The time, in UTC.
fn now() -> String {
    let mut parts = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: the call takes no pointer that is not NULL.
    let seconds = unsafe { libc::time(ptr::null_mut()) };
    // SAFETY: the call fills `parts` in. All zero is valid, too.
    unsafe { libc::gmtime_r(&seconds, parts.as_mut_ptr()) };
    // SAFETY: filled in.
    let parts = unsafe { parts.assume_init() };
    let (year, month) = (parts.tm_year + 1900, parts.tm_mon + 1);
    let (day, hour, minute, second) = (parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// What is done on a signal, as a number to compare.
fn action_of(signal: c_int) -> usize {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the call changes no action, and fills this one in.
    unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: all zero is valid, and so is what the system writes.
    unsafe { action.assume_init() }.sa_sigaction
}

fn is_privileged() -> bool {
    // SAFETY: the call takes no pointers.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// The number of a signal: `USR2`, `SIGUSR2`, `RTMIN+3`, `12`.
fn number_of(name: &str) -> Option<c_int> {
    const NAMES: &[(&str, c_int)] = &[
        ("HUP", libc::SIGHUP),
        ("QUIT", libc::SIGQUIT),
        ("TRAP", libc::SIGTRAP),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("URG", libc::SIGURG),
        ("IO", libc::SIGIO),
        ("PWR", libc::SIGPWR),
        ("WINCH", libc::SIGWINCH),
        ("XCPU", libc::SIGXCPU),
    ];
    let name = name.strip_prefix("SIG").unwrap_or(name);
    if let Some(above) = name.strip_prefix("RTMIN") {
        let above = match above.strip_prefix('+') {
            Some(above) => above.parse::<c_int>().ok().filter(|above| (0..=99).contains(above))?,
            None if above.is_empty() => 0,
            None => return None,
        };
        return Some(libc::SIGRTMIN() + above).filter(|signal| *signal <= libc::SIGRTMAX());
    }
    let named = NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number);
    named.or_else(|| {
        name.parse()
            .ok()
            .filter(|number| (1..=libc::SIGRTMAX()).contains(number))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_a_name_or_a_number() {
        let cases = [
            ("USR2", Some(libc::SIGUSR2)),
            ("SIGUSR2", Some(libc::SIGUSR2)),
            ("12", Some(12)),
            ("RTMIN", Some(libc::SIGRTMIN())),
            ("SIGRTMIN+3", Some(libc::SIGRTMIN() + 3)),
            ("RTMIN+99", None),
            ("RTMIN3", None),
            ("0", None),
            ("-1", None),
            ("1000", None),
            ("", None),
            ("usr2", None),
        ];
        for (name, number) in cases {
            assert_eq!(number_of(name), number, "{name}");
        }
    }
}
