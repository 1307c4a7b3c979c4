//! Promise: `make install` leaves what a C program needs, with the names and modes that a system expects, and the
//! libraries export the functions of `<openssl/async.h>` and nothing else.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use asyncjob_testing::tools::{CC, GDB, MAKE, NM, PKG_CONFIG, READELF, missing};
use support::{C_WITH_OPENSSL, OPENSSL, compile, install, make, pkg_config, printed, shared_object, source};

/// The functions of OpenSSL 3.2 and later; 3.0 lacks the last two.
const FUNCTIONS: [&str; 22] = [
    "ASYNC_WAIT_CTX_clear_fd",
    "ASYNC_WAIT_CTX_free",
    "ASYNC_WAIT_CTX_get_all_fds",
    "ASYNC_WAIT_CTX_get_callback",
    "ASYNC_WAIT_CTX_get_changed_fds",
    "ASYNC_WAIT_CTX_get_fd",
    "ASYNC_WAIT_CTX_get_status",
    "ASYNC_WAIT_CTX_new",
    "ASYNC_WAIT_CTX_set_callback",
    "ASYNC_WAIT_CTX_set_status",
    "ASYNC_WAIT_CTX_set_wait_fd",
    "ASYNC_block_pause",
    "ASYNC_cleanup_thread",
    "ASYNC_get_current_job",
    "ASYNC_get_wait_ctx",
    "ASYNC_init_thread",
    "ASYNC_is_capable",
    "ASYNC_pause_job",
    "ASYNC_start_job",
    "ASYNC_unblock_pause",
    "ASYNC_get_mem_functions",
    "ASYNC_set_mem_functions",
];

/// What this file's tests look at: stripped, as packages are.
fn installed() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| install("installed", &["install-strip"]))
}

fn nm(options: &[&str], file: &Path) -> Vec<String> {
    let mut nm = Command::new("nm");
    nm.args(["--defined-only", "--format=just-symbols"])
        .args(options)
        .arg(file);
    let mut names: Vec<_> = printed(nm).split_whitespace().map(String::from).collect();
    names.retain(|name| !name.ends_with(".o:"));
    names.sort_unstable();
    names
}

fn sorted(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort_unstable();
    names
}

/// S6: the references of libssl and of programs to OPENSSL_3.0.0 are satisfied by names without versions only.
#[test]
fn the_object_to_preload_exports_the_functions_without_versions_and_the_two_that_it_interposes() {
    if missing(&[NM]) {
        return;
    }
    let interposed = ["OPENSSL_thread_stop", "OSSL_LIB_CTX_set0_default"];
    let expected = sorted(FUNCTIONS.iter().chain(&interposed).map(|name| name.to_string()));
    assert_eq!(nm(&["--dynamic"], &shared_object()), expected);
    let header = fs::read_to_string(source("include/asyncjob.h")).unwrap();
    let undeclared = FUNCTIONS.iter().find(|name| !header.contains(&format!("{name}(")));
    assert_eq!(undeclared, None);
}

#[test]
fn the_library_for_programs_without_openssl_exports_no_name_of_openssls_but_the_22() {
    if missing(&[MAKE, NM]) {
        return;
    }
    let library = installed().join("lib");
    let mut versioned = sorted(FUNCTIONS.iter().map(|name| format!("{name}@@ASYNCJOB_0")));
    versioned.insert(0, "ASYNCJOB_0".into());
    assert_eq!(nm(&["--dynamic"], &library.join("libasyncjob.so")), versioned);
    let plain = sorted(FUNCTIONS.iter().map(|name| name.to_string()));
    assert_eq!(nm(&["--extern-only"], &library.join("libasyncjob.a")), plain);
}

#[test]
fn the_files_have_their_places_and_modes() {
    if missing(&[MAKE]) {
        return;
    }
    let version = env!("CARGO_PKG_VERSION");
    let mut expected: Vec<String> = FUNCTIONS
        .iter()
        .map(|name| format!("644 share/man/man3/{name}.3asyncjob"))
        .collect();
    expected.extend([
        "644 include/asyncjob.h".into(),
        "644 lib/libasyncjob-preload.so".into(),
        "644 lib/libasyncjob.a".into(),
        format!("644 lib/libasyncjob.so.{version}"),
        "644 lib/pkgconfig/asyncjob.pc".into(),
        "644 share/asyncjob/haproxy.service.d/asyncjob.conf".into(),
        "644 share/asyncjob/asyncjob.py".into(),
        "644 share/gdb/auto-load/p/lib/libasyncjob-preload.so-gdb.py".into(),
        format!("644 share/gdb/auto-load/p/lib/libasyncjob.so.{version}-gdb.py"),
        "644 share/man/man3/asyncjob.3".into(),
        "644 share/man/man7/asyncjob.7".into(),
        "lib/libasyncjob.so -> libasyncjob.so.0".into(),
        format!("lib/libasyncjob.so.0 -> libasyncjob.so.{version}"),
    ]);
    let mut found = Vec::new();
    list(installed(), "", &mut found);
    assert_eq!(sorted(found), sorted(expected));

    let drop_in = fs::read_to_string(installed().join("share/asyncjob/haproxy.service.d/asyncjob.conf")).unwrap();
    assert!(drop_in.contains("\nEnvironment=LD_PRELOAD=/p/lib/libasyncjob-preload.so\n"));
}

fn list(directory: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), format!("{prefix}{}", entry.file_name().display()));
        let metadata = entry.metadata().unwrap();
        if metadata.is_symlink() {
            found.push(format!("{name} -> {}", fs::read_link(path).unwrap().display()));
        } else if metadata.is_dir() {
            list(&path, &format!("{name}/"), found);
        } else {
            found.push(format!("{:o} {name}", metadata.permissions().mode() & 0o7777));
        }
    }
}

#[test]
fn the_loader_asks_for_the_name_with_the_number_of_the_interface() {
    if missing(&[MAKE, READELF]) {
        return;
    }
    for (file, name) in [
        ("libasyncjob.so", "libasyncjob.so.0"),
        ("libasyncjob-preload.so", "libasyncjob-preload.so"),
    ] {
        let mut readelf = Command::new("readelf");
        readelf
            .args(["--dynamic", "--wide"])
            .arg(installed().join("lib").join(file));
        let dynamic = printed(readelf);
        assert!(dynamic.contains(&format!("Library soname: [{name}]")), "{dynamic}");
        assert!(dynamic.contains("NODELETE"), "{dynamic}");
        assert!(
            !dynamic.contains("STATIC_TLS"),
            "such an object may fail to load with dlopen: {dynamic}"
        );
    }
}

/// glibc keeps 512 bytes for the thread-locals of all objects that are loaded with `dlopen`. Where they have no room, a
/// resume and its pause take a fifth longer.
#[test]
fn the_thread_locals_leave_room_for_those_of_other_objects() {
    if missing(&[MAKE, READELF]) {
        return;
    }
    for file in ["libasyncjob.so", "libasyncjob-preload.so"] {
        let mut readelf = Command::new("readelf");
        readelf
            .args(["--segments", "--wide"])
            .arg(installed().join("lib").join(file));
        let segments = printed(readelf);
        let tls = segments.lines().find_map(|line| line.trim().strip_prefix("TLS "));
        let size = tls.and_then(|tls| tls.split_whitespace().nth(4)).expect(&segments);
        let size = u32::from_str_radix(size.trim_start_matches("0x"), 16).unwrap();
        println!("{file}: {size} bytes");
        assert!(size <= 384, "{file} has {size} bytes of thread-locals");
    }
}

/// The memory of the library for each of these threads is made at the thread's first call.
#[test]
fn the_libraries_can_be_loaded_when_many_threads_exist() {
    if missing(C_WITH_OPENSSL) || missing(&[MAKE]) {
        return;
    }
    let program = compile("tests/c/loaded_late.c", &["-lpthread", "-ldl"]);
    for file in ["libasyncjob.so", "libasyncjob-preload.so"] {
        let mut command = Command::new(&program);
        command.arg(installed().join("lib").join(file));
        assert_eq!(printed(command), "128 jobs\n", "{file}");
    }
}

/// The tables of handles were 4 MiB of the file.
#[test]
fn no_table_of_zeros_is_in_the_files() {
    if missing(&[MAKE]) {
        return;
    }
    for file in ["libasyncjob.so", "libasyncjob-preload.so", "libasyncjob.a"] {
        let size = fs::metadata(installed().join("lib").join(file)).unwrap().len();
        println!("{file}: {size} bytes");
        assert!(size < 3 << 20, "{file} has {size} bytes");
    }
}

#[test]
fn a_program_is_linked_statically_with_what_pkg_config_says() {
    if missing(&[CC, MAKE, PKG_CONFIG]) {
        return;
    }
    let mut flags = vec!["-static", "-Wl,--no-warnings"]; // glibc warns about dlopen, which finds no libcrypto
    flags.extend(pkg_config(installed(), &["--static"]));
    let program = compile("tests/c/manual_page_static.c", &flags);
    let printed = printed(Command::new(program));
    assert!(
        printed.ends_with("Job finished with return value 1\nFinishing\n"),
        "{printed}"
    );
}

/// `make` has looked at the archive before Cargo writes a new one, and has to look again. An archive in C stands in
/// here for that of Cargo.
#[test]
fn a_second_make_links_what_cargo_has_built_anew() {
    if missing(&[MAKE, CC]) {
        return;
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("made-twice");
    let _ = fs::remove_dir_all(&target);
    fs::create_dir_all(target.join("dropin")).unwrap();
    let made = |answer: u32| {
        let code: String = FUNCTIONS
            .iter()
            .map(|name| format!("int {name}(void) {{ return {answer}; }}\n"))
            .collect();
        fs::write(target.join("stand_in.c"), code).unwrap();
        let cargo = "cc -fPIC -c stand_in.c -o stand_in.o && ar rcs dropin/libasyncjob.a stand_in.o && \
                     touch dropin/libasyncjob.so; :";
        let output = Command::new("make")
            .args(["--silent", "all", "PROFILE=dropin"])
            .arg(format!("CARGO=cd {} && {cargo}", target.display()))
            .arg(format!("CARGO_TARGET_DIR={}", target.display()))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        fs::read(target.join("dropin/c/libasyncjob.a")).unwrap()
    };
    assert_ne!(made(1), made(2));
}

/// Where nothing has to be typed but `jobs`.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_gdb_with_the_same_prefix_has_the_commands_for_jobs() {
    if missing(&[MAKE, GDB]) || missing(C_WITH_OPENSSL) {
        return;
    }
    let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gdb-prefix");
    let _ = fs::remove_dir_all(&prefix);
    make(&["install", "DESTDIR=/", &format!("PREFIX={}", prefix.display())]);
    let prefix = prefix.to_str().unwrap();
    let mut gdb = Command::new("timeout");
    gdb.args([
        "--signal=KILL",
        "120",
        "gdb",
        "--batch",
        "-nx",
        "-iex",
        "set debuginfod enabled off",
    ]);
    // What is built into a gdb of that prefix.
    let places = [
        format!("set auto-load scripts-directory {prefix}/share/gdb/auto-load"),
        format!("add-auto-load-safe-path {prefix}"),
    ];
    places.iter().for_each(|place| {
        gdb.args(["-iex", place]);
    });
    let preload = format!("set environment LD_PRELOAD={prefix}/lib/libasyncjob-preload.so");
    for command in [&preload, "break fflush", "run < /dev/null", "jobs", "kill"] {
        gdb.args(["-ex", command]);
    }
    let printed = printed({
        gdb.arg(compile("tests/c/paused_for_long.c", OPENSSL));
        gdb
    });
    assert!(printed.contains("\n2 jobs\n"), "{printed}");
}
