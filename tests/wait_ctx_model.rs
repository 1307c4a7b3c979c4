//! Promise: after any history of calls, a wait ctx reports what its rules say (S42, S52 to S59).
//!
//! The model states the rules without a list of entries. It numbers the phases between resumes, and records when each
//! registration was made and when it was cleared:
//!
//! ```text
//!   phase          0         |    1            |    2      now
//!   registration A *=========|=================|====...        settled:  in fds
//!   registration B           |  *==============|==+            cleared:  in changes().removed during phase 2
//!   registration C           |                 | *===...       new:      in fds and in changes().added
//!   registration D           |                 |  *=+          neither: it came and went in one phase
//! ```

mod by_hand;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use asyncjob::{Changes, Interest, Job, Step, WaitCtx, WaitFd, WaitFdOptions, WaitKey, pause_job, start_job};
use by_hand::{add_number, number};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Act {
    Set {
        key: usize,
        fd: RawFd,
        interest: Interest,
    },
    Clear {
        key: usize,
    },
    SetInterest {
        key: usize,
        interest: Interest,
    },
    /// The job pauses and is resumed.
    Resume,
    /// The job ends, and the next one starts.
    End,
}

struct Registration {
    fd: WaitFd,
    made: u32,
    cleared: Option<u32>,
    /// Its interest before the first change in the phase `changed`.
    before: Interest,
    changed: Option<u32>,
}

/// The rules.
#[derive(Default)]
struct Model {
    phase: u32,
    registrations: Vec<Registration>,
}

impl Model {
    fn set(&mut self, fd: WaitFd) {
        self.registrations.push(Registration {
            fd,
            made: self.phase,
            cleared: None,
            before: fd.interest,
            changed: None,
        });
    }

    fn newest(&mut self, key: WaitKey) -> Option<&mut Registration> {
        self.registrations
            .iter_mut()
            .rev()
            .find(|r| r.cleared.is_none() && r.fd.key == key)
    }

    fn clear(&mut self, key: WaitKey) -> Option<RawFd> {
        let phase = self.phase;
        let registration = self.newest(key)?;
        registration.cleared = Some(phase);
        Some(registration.fd.fd)
    }

    fn set_interest(&mut self, key: WaitKey, interest: Interest) -> bool {
        let phase = self.phase;
        let Some(registration) = self.newest(key) else {
            return false;
        };
        if registration.fd.interest != interest {
            if registration.changed != Some(phase) {
                registration.before = registration.fd.interest;
            }
            registration.changed = Some(phase);
            registration.fd.interest = interest;
        }
        true
    }

    fn fds(&self) -> Vec<WaitFd> {
        self.registrations
            .iter()
            .rev()
            .filter(|r| r.cleared.is_none())
            .map(|r| r.fd)
            .collect()
    }

    fn changes(&self) -> Changes {
        let now = Some(self.phase);
        let mut changes = Changes::default();
        for registration in self.registrations.iter().rev() {
            let is_new = registration.made == self.phase;
            let changed = !is_new && registration.changed == now;
            if registration.cleared.is_none() && (is_new || changed) {
                changes.added.push(registration.fd);
            }
            if !is_new && (registration.cleared == now || changed && registration.cleared.is_none()) {
                let interest = if changed {
                    registration.before
                } else {
                    registration.fd.interest
                };
                let mut removed = registration.fd;
                removed.interest = interest;
                changes.removed.push(removed);
            }
        }
        changes
    }
}

/// Sorts removals, which are newest first. The rules do not say where the removal of a changed interest stands among
/// them.
fn sorted(mut fds: Vec<WaitFd>) -> Vec<WaitFd> {
    fds.sort_by_key(|fd| (fd.fd, format!("{fd:?}")));
    fds
}

/// A value that reports its number when it is dropped.
struct ReportsDrop(RawFd, Arc<Mutex<Vec<RawFd>>>);

impl Drop for ReportsDrop {
    fn drop(&mut self) {
        self.1.lock().unwrap().push(self.0);
    }
}

/// The ctx and the model, side by side.
struct Pair {
    ctx: WaitCtx,
    model: Model,
    keys: [WaitKey; 3],
    /// The fds of the values that the ctx dropped.
    dropped: Arc<Mutex<Vec<RawFd>>>,
    /// Whether an interest was changed. Then the rules leave the order of removals open.
    interests_changed: bool,
}

impl Pair {
    fn apply(&mut self, act: Act) {
        match act {
            Act::Set { key, fd, interest } => {
                let fd = WaitFd::new(self.keys[key], fd, WaitFdOptions::new().interest(interest));
                add_number(&self.ctx, fd, ReportsDrop(fd.fd, self.dropped.clone()));
                self.model.set(fd);
            }
            Act::Clear { key } => {
                let value = self.ctx.clear_fd(self.keys[key]);
                let fd = value.map(|value| value.downcast::<ReportsDrop>().unwrap().0);
                assert_eq!(fd, self.model.clear(self.keys[key]));
                self.dropped.lock().unwrap().clear(); // this call dropped the value, not the ctx
            }
            Act::SetInterest { key, interest } => {
                let found = self.ctx.set_interest(self.keys[key], interest);
                assert_eq!(found, self.model.set_interest(self.keys[key], interest));
                self.interests_changed = true;
            }
            Act::Resume | Act::End => unreachable!("the driver handles these acts"),
        }
        self.compare();
    }

    fn compare(&mut self) {
        assert_eq!(self.ctx.fds(), self.model.fds());
        let (real, model) = (self.ctx.changes(), self.model.changes());
        assert_eq!(real.added, model.added);
        assert_eq!(sorted(real.removed.clone()), sorted(model.removed.clone()));
        if !self.interests_changed {
            assert_eq!(real.removed, model.removed);
        }
        for key in self.keys {
            assert_eq!(self.ctx.fd(key), self.model.newest(key).map(|r| r.fd.fd));
        }
        assert_eq!(
            *self.dropped.lock().unwrap(),
            [0; 0],
            "the ctx drops no value while it lives"
        );
    }
}

/// Starts a job that performs the script up to a pause or to its end.
fn start(pair: &Rc<RefCell<Pair>>, script: &Rc<RefCell<VecDeque<Act>>>) -> Step<()> {
    let (pair, script) = (pair.clone(), script.clone());
    let ctx = pair.borrow().ctx.clone();
    let job = move || {
        loop {
            let act = script.borrow_mut().pop_front();
            match act {
                None | Some(Act::End) => return,
                Some(Act::Resume) => {
                    if pause_job().is_err() {
                        return;
                    }
                    let mut pair = pair.borrow_mut();
                    pair.model.phase += 1;
                    pair.compare();
                }
                Some(act) => pair.borrow_mut().apply(act),
            }
        }
    };
    start_job(&ctx, job).unwrap()
}

/// Runs a history inside jobs. It compares the ctx and the model after each act, and from outside after each pause and
/// each end.
fn replay(acts: &[Act]) {
    let pair = Rc::new(RefCell::new(Pair {
        ctx: WaitCtx::new(),
        model: Model::default(),
        keys: std::array::from_fn(|_| WaitKey::unique()),
        dropped: Arc::default(),
        interests_changed: false,
    }));
    let script = Rc::new(RefCell::new(VecDeque::from_iter(acts.iter().copied())));
    let mut paused: Option<Job<()>> = None;
    while paused.is_some() || !script.borrow().is_empty() {
        let step = match paused.take() {
            Some(job) => job.resume(),
            None => start(&pair, &script),
        };
        pair.borrow_mut().compare();
        if let Step::Paused(job) = step {
            paused = Some(job);
        }
    }
    let Ok(pair) = Rc::try_unwrap(pair) else {
        panic!("every job has ended")
    };
    let pair = pair.into_inner();
    let alive: Vec<_> = pair.model.fds().iter().map(|fd| fd.fd).collect();
    drop(pair.ctx);
    assert_eq!(
        *pair.dropped.lock().unwrap(),
        alive,
        "S60: the values are dropped, newest first"
    );
}

fn interest() -> impl Strategy<Value = Interest> {
    prop_oneof![Just(Interest::Readable), Just(Interest::Writable), Just(Interest::Both)]
}

/// Acts with few keys and few fds, so that duplicates, reuse and clears of live entries are common.
fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..3usize, 3..8 as RawFd, interest()).prop_map(|(key, fd, interest)| Act::Set { key, fd, interest }),
        4 => (0..3usize).prop_map(|key| Act::Clear { key }),
        1 => (0..3usize, interest()).prop_map(|(key, interest)| Act::SetInterest { key, interest }),
        2 => Just(Act::Resume),
        1 => Just(Act::End),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_ctx_reports_what_the_model_says_after_any_history(acts in prop::collection::vec(act(), 0..60)) {
        replay(&acts);
    }
}

/// The model tells the four cases of the picture apart. So it does not agree with the ctx by accident.
#[test]
fn the_model_tells_the_cases_of_the_picture_apart() {
    let mut model = Model::default();
    let [a, b, c, d] = std::array::from_fn(|at| number(WaitKey::unique(), at as RawFd));
    model.set(a);
    model.phase = 1;
    model.set(b);
    model.phase = 2;
    model.clear(b.key);
    model.set(c);
    model.set(d);
    model.clear(d.key);
    assert_eq!(model.fds(), [c, a]);
    let changes = model.changes();
    assert_eq!((changes.added, changes.removed), (vec![c], vec![b]));
}
