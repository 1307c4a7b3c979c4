//! `ASYNC_start_job` as a C program calls it, in OpenSSL's libcrypto or in our drop-in, which have one interface.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;
use std::rc::Rc;

use libloading::Library;

use crate::depth::{pause_for_ever, pause_often};
use crate::peer::{Absent, Peer};

type Start = unsafe extern "C" fn(*mut *mut c_void, *mut c_void, *mut c_int, Body, *mut c_void, usize) -> c_int;
type Body = unsafe extern "C" fn(*mut c_void) -> c_int;

const PAUSE: c_int = 2;
const FINISH: c_int = 3;

/// The functions of one library that has `ASYNC_*`.
pub(crate) struct Async {
    start: Start,
    pause: unsafe extern "C" fn() -> c_int,
    free_ctx: unsafe extern "C" fn(*mut c_void),
    new_ctx: unsafe extern "C" fn() -> *mut c_void,
    ctx: *mut c_void,
    _library: Rc<Library>,
}

/// A paused job, by its C handle.
pub(crate) struct Handle(*mut c_void);

/// A job that pauses for ever, by its C handle, and its wait ctx. Neither is freed.
pub(crate) struct Endless(*mut c_void, *mut c_void);

/// The arguments of a job, which `ASYNC_start_job` copies.
#[repr(C)]
struct Args {
    pauses: u64,
    pause: unsafe extern "C" fn() -> c_int,
}

/// A library that was found, and its name with its version.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) name: String,
    library: Rc<Library>,
}

/// Every libcrypto of this machine that has `ASYNC_start_job`: the usual one, those in `/usr/local` and `/opt`, and
/// `extra`.
pub(crate) fn find(extra: &[PathBuf]) -> Result<Vec<Found>, Absent> {
    let mut found: Vec<Found> = Vec::new();
    for path in extra.iter().cloned().chain(usual_paths()) {
        if let Ok(one) = open(&path)
            && !found.iter().any(|other| other.name == one.name)
        {
            found.push(one);
        }
    }
    match found.is_empty() {
        true => Err(Absent::new(
            "no libcrypto.so.3 found; apt-get install libssl3, or name one with --libcrypto PATH",
        )),
        false => Ok(found),
    }
}

/// Our C ABI, where `cargo build --release -p asyncjob-capi` left it.
pub(crate) fn ours(path: Option<&Path>) -> Result<Found, Absent> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join("libasyncjob.so")));
    let path = path
        .map(Path::to_path_buf)
        .or(beside)
        .ok_or_else(|| Absent::new("the path of this program is not known"))?;
    if !path.exists() {
        let how = "cargo build --release -p asyncjob-capi, or name it with --capi PATH";
        return Err(Absent::new(format!("{} does not exist; {how}", path.display())));
    }
    let library = load(&path)?;
    Ok(Found {
        name: "asyncjob, C ABI".into(),
        library: Rc::new(library),
    })
}

impl Found {
    /// The function of that name. Every caller asks for the type that OpenSSL's headers give it.
    pub(super) fn function<T: Copy>(&self, name: &CStr) -> Result<T, Absent> {
        symbol(&self.library, name)
    }
}

fn usual_paths() -> Vec<PathBuf> {
    let mut paths = vec![PathBuf::from("libcrypto.so.3"), PathBuf::from("libcrypto.so.4")];
    let prefixes = std::fs::read_dir("/opt")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    for prefix in [PathBuf::from("/usr/local")].into_iter().chain(prefixes) {
        for lib in ["lib64", "lib"] {
            paths.extend(["libcrypto.so.3", "libcrypto.so.4"].map(|so| prefix.join(lib).join(so)));
        }
    }
    paths
}

fn open(path: &Path) -> Result<Found, Absent> {
    let library = load(path)?;
    symbol::<Start>(&library, c"ASYNC_start_job")?;
    let version: unsafe extern "C" fn(c_int) -> *const c_char = symbol(&library, c"OpenSSL_version")?;
    const OPENSSL_FULL_VERSION_STRING: c_int = 7;
    // SAFETY: the function takes any int.
    let text = unsafe { version(OPENSSL_FULL_VERSION_STRING) };
    // SAFETY: the function returns a pointer to a constant string.
    let text = unsafe { CStr::from_ptr(text) };
    Ok(Found {
        name: format!("libcrypto {}", text.to_string_lossy()),
        library: Rc::new(library),
    })
}

fn load(path: &Path) -> Result<Library, Absent> {
    // SAFETY: the constructors of libcrypto and of our drop-in may run at any time.
    unsafe { Library::new(path) }.map_err(|e| Absent::new(e.to_string()))
}

fn symbol<T: Copy>(library: &Library, name: &CStr) -> Result<T, Absent> {
    // SAFETY: every caller asks for the type that OpenSSL's headers give the function of that name.
    let found = unsafe { library.get::<T>(name) };
    found.map(|symbol| *symbol).map_err(|e| Absent::new(e.to_string()))
}

impl Async {
    pub(crate) fn new(found: &Found) -> Result<Self, Absent> {
        let library = &found.library;
        let new_ctx: unsafe extern "C" fn() -> *mut c_void = symbol(library, c"ASYNC_WAIT_CTX_new")?;
        Ok(Async {
            start: symbol(library, c"ASYNC_start_job")?,
            pause: symbol(library, c"ASYNC_pause_job")?,
            free_ctx: symbol(library, c"ASYNC_WAIT_CTX_free")?,
            new_ctx,
            // SAFETY: the function takes no argument and may be called on any thread.
            ctx: unsafe { new_ctx() },
            _library: Rc::clone(library),
        })
    }

    /// Starts a job (if `job` is null) or resumes it, and returns what `ASYNC_start_job` returned.
    #[inline(always)]
    fn run(&self, job: &mut *mut c_void, body: Body, args: *mut c_void, size: usize) -> c_int {
        self.run_with(self.ctx, job, body, args, size)
    }

    /// As `run`, with another wait ctx of this library.
    #[inline(always)]
    fn run_with(&self, ctx: *mut c_void, job: &mut *mut c_void, body: Body, args: *mut c_void, size: usize) -> c_int {
        let mut ret = 0;
        // SAFETY: the ctx is live, `job` is null or a handle that this thread got and that has not finished, and `args`
        // points to `size` bytes.
        unsafe { (self.start)(job, ctx, &mut ret, body, args, size) }
    }

    /// Starts a job that pauses for ever, `FRAMES` frames deep, with a wait ctx of its own.
    pub(crate) fn start_endless<const FRAMES: u32>(&self) -> Result<Endless, Absent> {
        let mut args = Args {
            pauses: u64::MAX,
            pause: self.pause,
        };
        // SAFETY: the function takes no argument and may be called on any thread.
        let mut job = Endless(ptr::null_mut(), unsafe { (self.new_ctx)() });
        let (args, size) = ((&raw mut args).cast(), size_of::<Args>());
        match self.run_with(job.1, &mut job.0, endless::<FRAMES>, args, size) {
            PAUSE => Ok(job),
            other => Err(Absent::new(format!("ASYNC_start_job returned {other}"))),
        }
    }

    /// Resumes the job until its next pause.
    #[inline(always)]
    pub(crate) fn resume_endless(&self, job: &mut Endless) {
        self.run_with(job.1, &mut job.0, nothing, ptr::null_mut(), 0);
    }
}

impl Drop for Async {
    fn drop(&mut self) {
        // SAFETY: the ctx came from ASYNC_WAIT_CTX_new, and no job of this peer is left that could use it.
        unsafe { (self.free_ctx)(self.ctx) };
    }
}

impl Peer for Async {
    type Job = Handle;

    fn start<const FRAMES: u32>(&mut self, pauses: u64) -> Result<Self::Job, Absent> {
        let mut args = Args {
            pauses,
            pause: self.pause,
        };
        let mut job = ptr::null_mut();
        match self.run(&mut job, body::<FRAMES>, (&raw mut args).cast(), size_of::<Args>()) {
            PAUSE => Ok(Handle(job)),
            other => Err(Absent::new(format!("ASYNC_start_job returned {other}"))),
        }
    }

    #[inline(always)]
    fn resume(&mut self, job: &mut Self::Job) -> bool {
        self.run(&mut job.0, nothing, ptr::null_mut(), 0) != FINISH
    }

    #[inline(always)]
    fn empty(&mut self) {
        self.run(&mut ptr::null_mut(), nothing, ptr::null_mut(), 0);
    }
}

unsafe extern "C" fn nothing(_: *mut c_void) -> c_int {
    1
}

unsafe extern "C" fn endless<const FRAMES: u32>(args: *mut c_void) -> c_int {
    // SAFETY: `start_endless` passed an `Args`, copied for this job.
    let Args { pause, .. } = unsafe { ptr::read(args.cast()) };
    pause_for_ever::<FRAMES>(|| {
        // SAFETY: the function may be called in any job.
        unsafe { pause() };
    });
    1
}

unsafe extern "C" fn body<const FRAMES: u32>(args: *mut c_void) -> c_int {
    // SAFETY: `start` passed an `Args`, copied for this job.
    let Args { pauses, pause } = unsafe { ptr::read(args.cast()) };
    pause_often::<FRAMES>(pauses, || {
        // SAFETY: the function may be called in any job.
        unsafe { pause() };
    });
    1
}
