//! The names of the frames of a job, without those that are not its own.
//!
//! ```text
//!   corosensei, the pause itself       left out: how it pauses differs, and is the same for all
//!   asyncjob::time::sleep              the function that the code of the job has called: without its line
//!   client::asks at client.rs:7        ) the code of the job, with whatever it has called in between
//!   client::main::{closure} at ...     )
//!   FnOnce::call_once, job_main, ...   left out: how a job starts
//! ```
//!
//! A debug build inlines nothing, so it has many more frames of ours than an optimised one. What is left is the same in
//! both. The debug information of an inlined function has its type arguments in its name, which can be a thousand
//! characters of futures and closures: names are shown without them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::job::walking;
use crate::sys::place_in_module;

/// Names the frames of stacks.
pub(super) struct Names {
    known: HashMap<usize, Vec<Function>>,
    /// Where the sources of this crate are, as the debug information has it.
    own_sources: Option<PathBuf>,
}

/// A function in a frame. A frame has several, if some are inlined.
#[derive(Clone)]
struct Function {
    name: String,
    /// In which file and line, or where in which module, if that is known.
    place: Option<String>,
    code: Code,
}

/// Whose code a function is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Code {
    /// This crate's.
    Own,
    /// What lies below any code: the switch, the standard library.
    Below,
    /// The job's, as far as is known.
    Job,
}

impl Names {
    pub(super) fn new() -> Self {
        Names {
            known: HashMap::new(),
            own_sources: own_sources(),
        }
    }

    /// The functions of a stack whose return addresses these are, the innermost first.
    pub(super) fn of(&mut self, frames: &[usize]) -> Vec<String> {
        let functions: Vec<_> = frames.iter().flat_map(|frame| self.functions(*frame)).collect();
        let shown = match functions.iter().position(|function| function.code == Code::Job) {
            Some(innermost) => {
                let outermost = functions.iter().rposition(|function| function.code == Code::Job);
                let called = functions[..innermost]
                    .iter()
                    .rposition(|function| function.code == Code::Own);
                called.unwrap_or(0)..outermost.map_or(functions.len(), |at| at + 1)
            }
            None => 0..functions.len(), // nothing is known of the code of the job
        };
        let text = |(at, function): (usize, &Function)| match &function.place {
            Some(place) if at != 0 || function.code == Code::Job => format!("{} {place}", function.name),
            _ => function.name.clone(),
        };
        functions[shown].iter().enumerate().map(text).collect()
    }

    /// The functions at a return address.
    ///
    /// A process that has changed its root directory has no files with symbols, and a program without symbols has
    /// nothing in them. What the dynamic linker knows is there all the same: exported functions, and the place in the
    /// module, which `addr2line -e` takes.
    fn functions(&mut self, frame: usize) -> Vec<Function> {
        if let Some(known) = self.known.get(&frame) {
            return known.clone();
        }
        let mut functions = Vec::new();
        let own_sources = self.own_sources.as_deref();
        resolve(frame, |symbol| {
            let Some(name) = symbol.name() else { return };
            let name = format!("{name:#}");
            let file = symbol.filename();
            let line = file.zip(symbol.lineno());
            functions.push(Function {
                code: Code::of(&name, file, own_sources),
                place: line.map(|(file, line)| format!("at {}:{line}", file.display())),
                name: without_type_arguments(&name),
            });
        });
        if functions.is_empty() {
            let (name, place) = match place_in_module(frame - 1) {
                Some((Some(name), module, at)) => (
                    format!("{:#}", backtrace::SymbolName::new(&name)),
                    Some(format!("in {module}+{at:#x}")),
                ),
                Some((None, module, at)) => (format!("{module}+{at:#x}"), None),
                None => (format!("{frame:#x}"), None),
            };
            functions.push(Function {
                code: Code::of(&name, None, own_sources),
                place,
                name: without_type_arguments(&name),
            });
        }
        self.known.insert(frame, functions.clone());
        functions
    }
}

/// The name of a function without type arguments: `serve<S>` is `serve`. A type in front of a path stays, as in
/// `<Server<S> as Serve<C>>::serve`, which is `<Server as Serve>::serve`.
fn without_type_arguments(name: &str) -> String {
    if name.contains("operator<") || name.contains("operator>") {
        return name.to_owned(); // of C++, where `<` may be the name
    }
    let mut kept = String::with_capacity(name.len());
    let mut open = 0; // the brackets around what is left out
    let mut before = ' ';
    for character in name.chars() {
        let begins_path = open == 0 && !(before.is_alphanumeric() || "_}:".contains(before));
        match character {
            '<' if !begins_path => {
                let without_colons = kept.trim_end_matches("::").len();
                kept.truncate(without_colons);
                open += 1;
            }
            '>' if open > 0 && before != '-' => open -= 1,
            _ if open == 0 => kept.push(character),
            _ => {}
        }
        before = character;
    }
    if open == 0 { kept } else { name.to_owned() }
}

/// Where the sources of this crate are, as the debug information has it: what is before the path of this file in it.
fn own_sources() -> Option<PathBuf> {
    const THIS_FILE: &str = "insight/frames.rs";
    let mut found = None;
    let mut left = 10; // one of the innermost frames is of this function
    let _walking = walking();
    backtrace::trace(|frame| {
        backtrace::resolve_frame(frame, |symbol| {
            let file = symbol.filename().filter(|file| file.ends_with(THIS_FILE));
            found = found
                .take()
                .or(file.and_then(|file| file.ancestors().nth(2)).map(Path::to_owned));
        });
        left -= 1;
        found.is_none() && left > 0
    });
    found
}

/// Calls `found` with each function at a return address.
fn resolve(frame: usize, found: impl FnMut(&backtrace::Symbol)) {
    let _walking = walking();
    // The call is before its return address.
    backtrace::resolve((frame - 1) as *mut _, found);
}

impl Code {
    /// By the file, and by the name where there is no debug information.
    fn of(name: &str, file: Option<&Path>, own_sources: Option<&Path>) -> Self {
        if let (Some(file), Some(own)) = (file, own_sources)
            && file.starts_with(own)
        {
            return Code::Own;
        }
        let path = name.trim_start_matches(['<', '&']);
        let is_of = |name: &str| path.strip_prefix(name).is_some_and(|rest| rest.starts_with("::"));
        if is_of("asyncjob") {
            return Code::Own;
        }
        let is_below = ["core", "std", "alloc", "corosensei"].into_iter().any(is_of)
            || ["stack_init_trampoline", "__rust_try"].contains(&name)
            || file.is_some_and(is_below);
        if is_below { Code::Below } else { Code::Job }
    }
}

/// Whether a file is one of the standard library or of corosensei.
fn is_below(file: &Path) -> bool {
    let mut parts = file.components().filter_map(|part| part.as_os_str().to_str());
    file.starts_with("/rustc") || parts.any(|part| part.starts_with("corosensei-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_arguments_are_left_out_of_names() {
        for (name, shown) in [
            ("serve", "serve"),
            ("{closure#0}<Vec<u8, Global>, &mut dyn Fn(u8) -> u8>", "{closure#0}"),
            ("server::serve::<Vec<u8>>::{closure#1}", "server::serve::{closure#1}"),
            (
                "<server::Server<S> as Serve<fn() -> u8>>::serve",
                "<server::Server as Serve>::serve",
            ),
            (
                "<<S as Serve<C>>::Answer as Drop>::drop",
                "<<S as Serve>::Answer as Drop>::drop",
            ),
            ("<&Server<S>>::serve<C>", "<&Server>::serve"),
            ("operator< <char>", "operator< <char>"),
            ("cut off<Vec<u8>", "cut off<Vec<u8>"),
        ] {
            assert_eq!(without_type_arguments(name), shown);
        }
    }

    #[test]
    fn code_is_told_apart_with_and_without_files() {
        let of = |name, file: Option<&str>| Code::of(name, file.map(Path::new), Some(Path::new("/own/src")));
        assert!(of("pause_job", Some("/own/src/job/mod.rs")) == Code::Own);
        assert!(of("<asyncjob::job::Job<T>>::resume", None) == Code::Own);
        assert!(of("asyncjob_user::main", None) == Code::Job);
        assert!(of("serve", Some("/own/src_of_another/main.rs")) == Code::Job);
        assert!(of("<core::panic::AssertUnwindSafe<F> as FnOnce<()>>::call_once", None) == Code::Below);
        assert!(of("do_call<F, R>", Some("/rustc/1/library/std/src/panicking.rs")) == Code::Below);
        assert!(of("switch_yield", Some("/registry/corosensei-0.3.4/src/unwind.rs")) == Code::Below);
        assert!(of("ASYNC_pause_job", None) == Code::Job);
    }
}
