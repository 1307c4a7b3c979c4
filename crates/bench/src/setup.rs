//! The settings of a run: how long it is, which peers were asked for, and which were found.

use std::path::PathBuf;

use crate::machine::Cores;
use crate::measure::{Candidate, Effort, Summary, interleave, ticks};
use crate::peer::Absent;
use crate::peers::libcrypto::{self, Found};
use crate::progress::Progress;

/// One run, as the command line asked for it.
pub(crate) struct Setup {
    pub(crate) cores: Cores,
    pub(crate) effort: Effort,
    pub(crate) length: Length,
    /// Parts of names. A peer is measured if its name has one of them. Without any, every peer is measured.
    pub(crate) only: Vec<String>,
    pub(crate) libcryptos: Result<Vec<Found>, Absent>,
    pub(crate) capi: Result<Found, Absent>,
}

/// How much of everything a run does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// Each candidate runs a few times, which shows that it works. The times mean nothing.
    Once,
    /// About two minutes.
    Quick,
    /// As for the published tables.
    Full,
}

impl Length {
    /// One value for each length.
    pub(crate) fn pick<T>(self, once: T, quick: T, full: T) -> T {
        match self {
            Length::Once => once,
            Length::Quick => quick,
            Length::Full => full,
        }
    }
}

impl Setup {
    pub(crate) fn find(&mut self, libcryptos: &[PathBuf], capi: Option<PathBuf>) {
        self.libcryptos = libcrypto::find(libcryptos);
        self.capi = libcrypto::ours(capi.as_deref());
    }

    /// Whether `--peer` asks for this peer, or is not given.
    pub(crate) fn wants(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.only.is_empty() || self.only.iter().any(|part| name.contains(&part.to_lowercase()))
    }

    /// Every library with the C interface: ours, then OpenSSL's.
    pub(crate) fn c_libraries(&self) -> Vec<Result<Found, (&'static str, Absent)>> {
        let ours = self.capi.clone().map_err(|why| ("asyncjob, C ABI", why));
        match &self.libcryptos {
            Ok(all) => [ours].into_iter().chain(all.iter().cloned().map(Ok)).collect(),
            Err(why) => vec![ours, Err(("libcrypto", why.clone()))],
        }
    }

    /// The one of them that is called so.
    pub(crate) fn c_library(&self, name: &str) -> Result<Found, Absent> {
        let mut found = self.c_libraries().into_iter().flatten();
        found
            .find(|found| found.name == name)
            .ok_or_else(|| Absent::new(format!("no peer is called {name}")))
    }
}

/// Candidates that are measured against each other. The first one is their floor.
pub(crate) struct Group<'a> {
    setup: &'a Setup,
    candidates: Vec<Candidate>,
    skipped: Vec<(String, Absent)>,
}

impl<'a> Group<'a> {
    /// A group with its floor and its control, which is the same code once more.
    pub(crate) fn new(setup: &'a Setup, floor: &str, make: impl Fn(&str) -> Candidate) -> Self {
        let candidates = vec![make(floor), make(&format!("{floor} (control)"))];
        Group {
            setup,
            candidates,
            skipped: Vec::new(),
        }
    }

    /// Adds a candidate, if its peer was asked for.
    pub(crate) fn add(&mut self, name: &str, make: impl FnOnce(&str) -> Candidate) {
        self.try_add(name, |name| Ok(make(name)));
    }

    /// Adds a candidate whose peer may be absent.
    pub(crate) fn try_add(&mut self, name: &str, make: impl FnOnce(&str) -> Result<Candidate, Absent>) {
        if !self.setup.wants(name) {
            return;
        }
        match make(name) {
            Ok(candidate) => self.candidates.push(candidate),
            Err(why) => self.skip(name, why),
        }
    }

    /// Adds one candidate for each library with the C interface.
    pub(crate) fn add_c_libraries(&mut self, make: impl Fn(&str, &Found) -> Result<Candidate, Absent>) {
        for library in self.setup.c_libraries() {
            match library {
                Ok(found) => self.try_add(&found.name.clone(), |name| make(name, &found)),
                Err((name, why)) => self.skip(name, why),
            }
        }
    }

    pub(crate) fn skip(&mut self, name: &str, why: Absent) {
        if self.setup.wants(name) {
            self.skipped.push((name.to_string(), why));
        }
    }

    /// The names of all candidates.
    pub(crate) fn names(&self) -> Vec<String> {
        self.candidates.iter().map(|candidate| candidate.name.clone()).collect()
    }

    /// The candidates that could not be made, and why.
    pub(crate) fn skipped(&self) -> &[(String, Absent)] {
        &self.skipped
    }

    /// The candidate of that name alone.
    pub(crate) fn take(self, name: &str) -> Option<Candidate> {
        self.candidates.into_iter().find(|candidate| candidate.name == name)
    }

    pub(crate) fn ticks(&self) -> u64 {
        ticks(self.candidates.len(), self.setup.effort)
    }

    /// Measures all candidates.
    pub(crate) fn run(mut self, progress: &Progress) -> Measured {
        let names = self.names();
        let summaries = interleave(&mut self.candidates, self.setup.effort, progress);
        Measured {
            results: names.into_iter().zip(summaries).collect(),
            skipped: self.skipped,
        }
    }
}

/// The figures of a group.
pub(crate) struct Measured {
    pub(crate) results: Vec<(String, Summary)>,
    pub(crate) skipped: Vec<(String, Absent)>,
}
