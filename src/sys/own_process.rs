//! What a dump asks the system about this process: where its code is, and what its fds are. Unix systems have the same
//! calls for it.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::ptr;

/// Where a module of the process (the program, a shared object) is, and where its unwind tables are.
#[derive(Debug)]
pub(crate) struct LoadedModule {
    /// What is added to the addresses of the file.
    pub(crate) bias: u64,
    /// The loaded segments, by the addresses of the file: start and end.
    pub(crate) segments: Vec<(u64, u64)>,
    /// The `.eh_frame_hdr`, by the addresses of the file: start and end.
    pub(crate) eh_frame_hdr: (u64, u64),
}

/// macOS has unwind tables of another format. Without tables a stack is walked by its frame pointers, which all code
/// has there.
#[cfg(target_os = "macos")]
pub(crate) fn loaded_modules() -> Vec<LoadedModule> {
    Vec::new()
}

/// The modules that have unwind tables. The call takes the lock of the dynamic linker.
#[cfg(not(target_os = "macos"))]
pub(crate) fn loaded_modules() -> Vec<LoadedModule> {
    unsafe extern "C" fn add(info: *mut libc::dl_phdr_info, _: usize, modules: *mut libc::c_void) -> i32 {
        // SAFETY: the linker gives a valid description for the time of this call.
        let info = unsafe { &*info };
        // SAFETY: `loaded_modules` passed this, and waits.
        let modules = unsafe { &mut *modules.cast::<Vec<LoadedModule>>() };
        if info.dlpi_phdr.is_null() {
            return 0;
        }
        // SAFETY: the linker has so many program headers there.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let ranges = |kind| {
            let found = headers.iter().filter(move |header| header.p_type == kind);
            found.map(|header| (header.p_vaddr, header.p_vaddr + header.p_memsz))
        };
        if let Some(eh_frame_hdr) = ranges(libc::PT_GNU_EH_FRAME).next() {
            modules.push(LoadedModule {
                bias: info.dlpi_addr,
                segments: ranges(libc::PT_LOAD).collect(),
                eh_frame_hdr,
            });
        }
        0
    }
    let mut modules = Vec::new();
    // SAFETY: the callback treats its last argument as the pointer that it is, and does not unwind.
    unsafe { libc::dl_iterate_phdr(Some(add), (&raw mut modules).cast()) };
    modules
}

/// Where an address of code is, as the dynamic linker knows it, without a look at any file: the name of the exported
/// function around it, the file name of its module, and the distance from the start of that.
pub(crate) fn place_in_module(address: usize) -> Option<(Option<Vec<u8>>, String, usize)> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: dladdr reads no memory at the address.
    if unsafe { libc::dladdr(ptr::without_provenance(address), info.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: dladdr reported success, so it has filled this in.
    let info = unsafe { info.assume_init() };
    // SAFETY: a string of the loader's, which stays while the module does. A module whose code a job is in is not
    // unloaded.
    let module = unsafe { CStr::from_ptr(info.dli_fname) }.to_string_lossy();
    let file = module.rsplit('/').next().unwrap_or_default();
    let function = (!info.dli_sname.is_null()).then(|| {
        // SAFETY: as above.
        unsafe { CStr::from_ptr(info.dli_sname) }.to_bytes().to_vec()
    });
    Some((function, file.to_owned(), address - info.dli_fbase.addr()))
}

/// What an fd is, as `/proc/self/fd` would have it, without a look there. It is empty if the fd is closed.
pub(crate) fn kind_of_open_fd(fd: RawFd) -> String {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the call fills `stat` in, or fails.
    if unsafe { libc::fstat(fd, stat.as_mut_ptr()) } != 0 {
        return String::new();
    }
    // SAFETY: filled in.
    let stat = unsafe { stat.assume_init() };
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFSOCK => format!("socket:[{}]", stat.st_ino),
        libc::S_IFIFO => format!("pipe:[{}]", stat.st_ino),
        libc::S_IFREG | libc::S_IFDIR => "a file".to_owned(),
        libc::S_IFCHR | libc::S_IFBLK => "a device".to_owned(),
        _ => "anon_inode".to_owned(), // an eventfd, a timerfd, an epoll instance, a kqueue
    }
}
