//! The promises that `stack` makes to other modules, with system calls that fail. Each test uses another guard size,
//! and therefore has a depot for itself.

use std::io;

use super::depot::{Surplus, release_surplus};
use super::header::StackHeader;
use super::memory::fault;
use super::*;
use crate::pool::{self, PoolConfig, cleanup_thread, init_thread};
use crate::{StartErrorKind, Step, WaitCtx, pause_job, start_job};

fn spec(guard_pages: u32) -> Spec {
    Spec {
        guard: guard_pages << 12,
        ..Spec::new(StackSize::MIN)
    }
}

fn take(depot: &'static Depot) -> Stack {
    depot.take().expect("memory for a stack")
}

/// The lines of `/proc/self/maps` for the slabs of a depot.
fn mappings(depot: &'static Depot) -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc is mounted");
    let in_slab = |line: &&str| {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let (start, end) = (
            usize::from_str_radix(start, 16).unwrap(),
            usize::from_str_radix(end, 16).unwrap(),
        );
        let mut slabs = slab::all().filter(|slab| ptr_eq(slab.depot, depot) && slab.bytes() > 0);
        slabs.any(|slab| start < slab.whole(0).start + slab.bytes() && slab.whole(0).start < end)
    };
    maps.lines().filter(in_slab).map(str::to_owned).collect()
}

fn ptr_eq(a: &Depot, b: &Depot) -> bool {
    std::ptr::eq(a, b)
}

#[test]
fn stacks_lie_apart_and_their_tops_are_staggered_lines() {
    let depot = Depot::of(spec(3));
    let stacks: Vec<Stack> = (0..200).map(|_| take(depot)).collect();
    let stride = (16 << 10) + (3 << 12);
    let mut tops: Vec<usize> = stacks.iter().map(|stack| stack.top().as_ptr() as usize).collect();
    for (stack, top) in stacks.iter().zip(&tops) {
        assert_eq!(top % 64, 0);
        let above_limit = top - stack.limit().as_ptr() as usize;
        assert!(
            above_limit <= stride - size_of::<StackHeader>() && above_limit > stride - 1024,
            "{above_limit}"
        );
        assert_eq!(stack.depot().spec().size, StackSize::MIN);
    }
    let lines: std::collections::HashSet<usize> = tops.iter().map(|top| top % 4096).collect();
    assert_eq!(
        lines.len(),
        8,
        "the tops of neighbours fall into different sets of the cache"
    );
    tops.sort_unstable();
    assert!(tops.windows(2).all(|pair| pair[1] - pair[0] > stride - 1024));
}

#[test]
fn slots_are_taken_lowest_first_and_empty_slabs_are_unmapped() {
    let depot = Depot::of(spec(5));
    depot.cache_nothing();
    let mut stacks: Vec<Stack> = (0..1000).map(|_| take(depot)).collect();
    let stats = depot.stats();
    // 64 + 256 + 1024
    assert_eq!((stats.slabs, stats.stacks), (3, 1000));
    assert_eq!(stats.reserved, 1344 * ((16 << 10) + (5 << 12)));
    let tenth = stacks[10].limit();
    depot.give_all(std::iter::once(stacks.remove(10)), Surplus::Now);
    let again = take(depot);
    assert_eq!(again.limit(), tenth, "the lowest free slot is the one given back");
    stacks.push(again);
    depot.give_all(stacks.drain(320..), Surplus::Now);
    assert_eq!(
        depot.stats().slabs,
        3,
        "slot 320, the first of the third slab, is still in use"
    );
    depot.give_all(stacks.drain(..), Surplus::Now);
    let stats = depot.stats();
    assert_eq!((stats.slabs, stats.stacks, stats.reserved), (0, 0, 0));
    assert!(mappings(depot).is_empty());
    assert_eq!(depot.stats().slabs, 0);
    drop(take(depot));
}

#[cfg(not(asyncjob_portable))]
#[test]
fn a_slab_is_one_mapping_with_advised_guards_and_two_a_stack_without() {
    let depot = Depot::of(spec(7));
    let stacks: Vec<Stack> = (0..64).map(|_| take(depot)).collect();
    assert_eq!(mappings(depot).len(), 1, "{:#?}", mappings(depot));
    drop(stacks);

    let depot = Depot::of(spec(9));
    fault::guard_advice_fails_with(Some(libc::EINVAL));
    let stacks: Vec<Stack> = (0..64).map(|_| take(depot)).collect();
    fault::guard_advice_fails_with(None);
    let maps = mappings(depot);
    assert_eq!(
        maps.iter().filter(|line| line.contains("---p")).count(),
        64,
        "{maps:#?}"
    );
    let limits: Vec<usize> = stacks.iter().map(|stack| stack.limit().as_ptr() as usize).collect();
    let is_guard = |limit: usize| {
        maps.iter()
            .any(|line| line.starts_with(&format!("{limit:x}-")) && line.contains("---p"))
    };
    assert!(limits.into_iter().all(is_guard));
}

/// Starts a job again and again. Each time, the next one of the system calls that make a stack fails. Returns how many
/// failures became errors.
fn start_with_each_call_failing(guard: usize, secrets: SecretPolicy) -> usize {
    let depot = Depot::of(Spec {
        guard: guard as u32,
        secrets,
        ..Spec::new(StackSize::MIN)
    });
    depot.cache_nothing();
    fault::keep_idle_stacks();
    let config = PoolConfig::new()
        .stack_size(StackSize::MIN)
        .guard(guard)
        .secrets(secrets)
        .limit(1)
        .max_idle(0);
    init_thread(config).expect("a valid configuration");
    let ctx = WaitCtx::new();
    let mapped = fault::mapped();
    let mut failed = 0;
    for n in 0.. {
        fault::fail_at(Some(n));
        let started = start_job(&ctx, || 42);
        release_surplus(); // its calls may fail, too
        let reached = !fault::is_pending();
        fault::fail_at(None);
        match started {
            Ok(Step::Finished(42)) => {
                // Either there is no n-th call, or the call that failed has an alternative.
                assert_eq!(depot.stats().stacks, 0);
                if !reached {
                    break;
                }
            }
            Ok(_) => panic!("the job returns 42"),
            Err(refused) => {
                failed += 1;
                let StartErrorKind::NoStack(source) = refused.kind() else {
                    panic!("a failed start still counts for the limit: {refused}")
                };
                assert_eq!(source.kind(), io::ErrorKind::OutOfMemory);
                assert!(source.to_string().contains("stack"), "{source}");
                assert_eq!(refused.into_closure()(), 42, "the closure comes back");
            }
        }
        assert_eq!(fault::mapped(), mapped, "after call {n} failed");
        assert_eq!(pool::stats().in_use, 0);
        assert_eq!(pool::stats().idle, 0);
        assert_eq!(
            (depot.stats().stacks, depot.stats().slabs, mappings(depot).len()),
            (0, 0, 0),
            "after call {n} failed"
        );
    }
    failed
}

/// How many guards are made by a call each, before the first stack of a slab is there.
const PROTECTED_GUARDS: usize = if cfg!(asyncjob_portable) { slab::GROUP_SLOTS } else { 0 };

#[test]
fn a_failing_call_gives_the_closure_back_and_leaks_nothing() {
    // MADV_NOHUGEPAGE and the first guard. If mmap fails, a smaller slab is mapped. If process_madvise fails for the
    // other guards, madvise makes them.
    assert_eq!(
        start_with_each_call_failing(11 << 12, SecretPolicy::new()),
        2 + PROTECTED_GUARDS
    );
    // also MADV_DONTDUMP and mlock2
    assert_eq!(
        start_with_each_call_failing(11 << 12, SecretPolicy::new().dont_dump().mlock()),
        4 + PROTECTED_GUARDS
    );
    cleanup_thread().unwrap();
}

#[test]
fn a_failing_mprotect_gives_the_closure_back_and_leaks_nothing() {
    fault::guard_advice_fails_with(Some(libc::EINVAL));
    // MADV_NOHUGEPAGE and 64 calls of mprotect
    let failed = start_with_each_call_failing(13 << 12, SecretPolicy::new());
    fault::guard_advice_fails_with(None);
    assert_eq!(failed, 65);
    cleanup_thread().unwrap();
}

/// Whether the kernel refuses to read at an address.
fn faults(address: usize) -> bool {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    let (mut reader, writer) = io::pipe().unwrap();
    // SAFETY: the kernel checks the address.
    let written = unsafe { libc::write(writer.as_raw_fd(), address as *const _, 1) };
    if written == 1 {
        reader.read_exact(&mut [0]).unwrap();
    } else {
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EFAULT));
    }
    written != 1
}

/// Takes stacks, gives most of them back, and takes as many again. Meanwhile the `n`-th system call fails, for every
/// `n`. A failing `mprotect` does half of its work.
fn every_stack_has_a_guard_whatever_fails(guard_pages: u32) {
    const STACKS: usize = 6 * slab::GROUP_SLOTS; // more groups than stay guarded when they are empty
    let depot = Depot::of(spec(guard_pages));
    depot.cache_nothing();
    for n in 0.. {
        let mut stacks = vec![take(depot)];
        fault::fail_at(Some(n));
        let mut refused = 0;
        for _round in 0..2 {
            while stacks.len() < STACKS {
                match depot.take() {
                    Ok(stack) => stacks.push(stack),
                    Err(_) => refused += 1,
                }
            }
            let unguarded = stacks.iter().filter(|stack| !faults(stack.limit().as_ptr() as usize));
            assert_eq!(unguarded.count(), 0, "call {n} failed");
            depot.give_all(stacks.drain(1..), Surplus::Now);
        }
        let reached = !fault::is_pending();
        fault::fail_at(None);
        assert!(refused <= 1, "one call failed, and {refused} stacks were refused");
        if !reached {
            return;
        }
    }
}

#[test]
fn a_guard_that_was_removed_in_part_is_made_again() {
    fault::guard_advice_fails_with(Some(libc::EINVAL));
    every_stack_has_a_guard_whatever_fails(25);
    fault::guard_advice_fails_with(None);
}

/// A kernel without the advice says `EINVAL`. A sandbox says what its author chose.
#[test]
fn refused_guard_advice_leads_to_mprotect() {
    let depot = Depot::of(spec(29));
    depot.cache_nothing();
    for error in [libc::EINVAL, libc::EPERM, libc::ENOSYS, libc::EACCES, libc::EOPNOTSUPP] {
        fault::guard_advice_fails_with(Some(error));
        let stack = depot.take();
        fault::guard_advice_fails_with(None);
        let stack = stack.unwrap_or_else(|refused| panic!("errno {error}: {refused}"));
        assert!(faults(stack.limit().as_ptr() as usize));
        assert!(mappings(depot).len() > 64, "errno {error}: {:#?}", mappings(depot));
    }
    for error in [libc::ENOMEM, libc::EAGAIN] {
        fault::guard_advice_fails_with(Some(error));
        let refused = depot.take().map(drop);
        fault::guard_advice_fails_with(None);
        assert!(refused.unwrap_err().to_string().contains("MADV_GUARD_INSTALL"));
    }
}

#[cfg(not(asyncjob_portable))]
/// A sandbox may begin after the first stacks, and `mlockall` may lock the slabs that exist.
#[test]
fn a_slab_whose_guard_advice_is_refused_later_goes_on_with_mprotect() {
    let depot = Depot::of(spec(31));
    depot.cache_nothing();
    let mut stacks: Vec<Stack> = (0..100).map(|_| take(depot)).collect();
    assert!(mappings(depot).len() <= 2, "{:#?}", mappings(depot));
    fault::guard_advice_fails_with(Some(libc::EPERM));
    for _round in 0..2 {
        stacks.extend((0..500).map(|_| take(depot)));
        let guarded = stacks.iter().filter(|stack| faults(stack.limit().as_ptr() as usize));
        assert_eq!(guarded.count(), stacks.len());
        depot.give_all(stacks.drain(10..), Surplus::Now);
    }
    fault::guard_advice_fails_with(None);
}

/// What remains of a slab after a crowd is one mapping, with the guards of the stacks in use and of a few groups beside
/// them. Page tables count as memory of the process too: 4 KiB for each 2 MiB that has a guard.
#[cfg(not(asyncjob_portable))]
#[test]
fn the_guards_of_a_crowd_go_with_its_stacks() {
    const SMALLER: usize = (1 + 4) * slab::GROUP_SLOTS; // the first two slabs
    const CROWD: usize = 10 * slab::GROUP_SLOTS;
    const STAY: usize = 4 * slab::GROUP_SLOTS;
    for (secrets, guard) in [(SecretPolicy::new(), 33), (SecretPolicy::new().dont_dump(), 33)] {
        let depot = Depot::of(Spec { secrets, ..spec(guard) });
        depot.cache_nothing();
        let mut stacks: Vec<Stack> = (0..SMALLER + CROWD).map(|_| take(depot)).collect();
        if mappings(depot).len() > 3 {
            return; // this kernel has no other guards than those of mprotect
        }
        let guards: Vec<usize> = stacks[SMALLER..]
            .iter()
            .map(|stack| stack.limit().as_ptr() as usize)
            .collect();
        let left = || guards.iter().filter(|guard| faults(**guard)).count();
        // The first slot of the slab stays in use. Neither its group nor the last one goes in one piece.
        depot.give_all(stacks.drain(SMALLER + CROWD - 30..), Surplus::Now);
        assert_eq!(left(), CROWD);
        depot.give_all(stacks.drain(SMALLER + 1..), Surplus::Now);
        assert_eq!(left(), slab::GROUP_SLOTS + STAY, "{secrets:?}");
        assert!(mappings(depot).len() <= 3, "{:#?}", mappings(depot));
        assert_eq!(depot.stats().stacks, SMALLER + 1);
        // A taken group is free again, and its stacks have no memory until they are used.
        let resident = depot.stats().resident;
        let again: Vec<Stack> = (0..CROWD - 1).map(|_| take(depot)).collect();
        assert!(again.iter().all(|stack| faults(stack.limit().as_ptr() as usize)));
        assert_eq!(
            depot.stats().resident,
            resident + (CROWD - 1) * 4096,
            "a page for each header"
        );
        drop(again);
        assert_eq!(left(), slab::GROUP_SLOTS + STAY, "one after the other");
    }
}

#[cfg(not(asyncjob_portable))]
#[test]
fn an_advised_guard_is_there_whatever_fails() {
    every_stack_has_a_guard_whatever_fails(27);
}

/// Single pages, runs of pages over the end of a stack, and more of them than one call of the kernel names.
#[cfg(not(asyncjob_portable))]
#[test]
fn a_page_map_and_mincore_find_the_same_pages() {
    use super::memory::{PageMap, Range};

    let depot = Depot::of(spec(33));
    let shape = slab::Geometry::of(depot.spec());
    let stacks: Vec<Stack> = (0..100).map(|_| take(depot)).collect();
    for (index, stack) in stacks.iter().enumerate() {
        let lowest = stack.limit().as_ptr() as usize + shape.guard;
        for page in 0..index % 4 {
            let touched = (lowest + page * 2 * 4096 % (12 << 10)) as *mut u8;
            // SAFETY: the page is one of a stack on which no job runs.
            unsafe { touched.write_volatile(1) };
        }
    }
    let slots: Vec<Range> = slab::all()
        .filter(|slab| ptr_eq(slab.depot, depot) && slab.bytes() > 0)
        .map(|slab| Range {
            start: slab.whole(0).start,
            len: slab.bytes(),
        })
        .collect();
    let by_mincore = depth::survey_by(None, slots.iter().copied(), shape);
    assert!(
        by_mincore.resident > 100 * 4096 && by_mincore.deepest == 16 << 10,
        "{by_mincore:?}"
    );
    let Some(map) = PageMap::open() else {
        return; // an older kernel, or a sandbox
    };
    assert_eq!(depth::survey_by(Some(&map), slots.iter().copied(), shape), by_mincore);
}

#[test]
fn a_quarantined_stack_is_never_used_again() {
    let depot = Depot::of(spec(15));
    depot.cache_nothing();
    let first = take(depot);
    let kept = first.limit();
    first.quarantine();
    let others: Vec<Stack> = (0..300).map(|_| take(depot)).collect();
    assert!(others.iter().all(|stack| stack.limit() != kept));
    drop(others);
    let stats = depot.stats();
    assert_eq!(
        (stats.quarantined, stats.stacks, stats.slabs),
        (1, 1, 1),
        "its slab stays mapped"
    );
    assert!(take(depot).limit() != kept);
}

#[test]
fn the_mark_is_the_deepest_page_touched_and_survives_the_stack() {
    let depot = Depot::of(spec(17));
    depot.cache_nothing();
    let stack = take(depot);
    assert_eq!(stack.high_water(), 4096, "the page of the header");
    let deep = stack.top().as_ptr() as usize - 9000;
    // SAFETY: the address is 9000 bytes below the top of a stack of 16 KiB, which this test owns.
    unsafe { (deep as *mut u8).write_volatile(1) };
    assert_eq!(stack.high_water(), 12288);
    assert_eq!(depot.stats().high_water, 12288, "of a stack in use");
    drop(stack);
    assert_eq!(depot.stats().stacks, 0);
    assert_eq!(depot.stats().high_water, 12288, "of a stack whose memory is gone");
}

#[test]
fn the_exact_mark_is_the_deepest_word() {
    let depot = Depot::of(Spec {
        exact: true,
        ..spec(19)
    });
    let stack = take(depot);
    assert_eq!(stack.high_water(), 0);
    let deep = stack.top().as_ptr() as usize - 5000;
    // SAFETY: the address is 5000 bytes below the top of a stack of 16 KiB, which this test owns.
    unsafe { (deep as *mut u64).write_volatile(1) };
    assert_eq!(stack.high_water(), 5000);
    drop(stack);
    let again = take(depot);
    assert_eq!(again.high_water(), 0, "wiped before it is used again");
    assert_eq!(depot.stats().high_water, 5000);
}

#[test]
fn the_depot_serves_a_thread_that_starts_from_one_that_ends() {
    let depot = Depot::of(spec(21));
    let config = PoolConfig::new().stack_size(StackSize::MIN).guard(21 << 12);
    std::thread::spawn(move || {
        init_thread(config.precreate(100)).unwrap();
        assert_eq!(pool::stats().idle, 100);
    })
    .join()
    .unwrap();
    let stats = depot.stats();
    assert_eq!(
        (stats.stacks, stats.in_depot),
        (100, 100),
        "an exiting thread leaves its stacks in the depot"
    );
    init_thread(config).unwrap();
    let ctx = WaitCtx::new();
    let paused: Vec<_> = (0..100)
        .map(|_| start_job(&ctx, || pause_job().is_ok()).unwrap())
        .collect();
    assert_eq!(depot.stats().stacks, 100, "nothing new was made");
    for step in paused {
        let Step::Paused(job) = step else { panic!("it paused") };
        assert!(matches!(job.resume(), Step::Finished(true)));
    }
    cleanup_thread().unwrap();
    assert_eq!(depot.stats().in_depot, 100);
}

#[test]
fn the_limit_counts_what_comes_from_the_depot() {
    let config = PoolConfig::new().stack_size(StackSize::MIN).guard(23 << 12);
    std::thread::spawn(move || init_thread(config.precreate(50)).unwrap())
        .join()
        .unwrap();
    init_thread(config.limit(3)).unwrap();
    let ctx = WaitCtx::new();
    let mut paused = Vec::new();
    for _ in 0..3 {
        paused.push(start_job(&ctx, || pause_job().is_ok()).unwrap());
    }
    assert_eq!((pool::stats().in_use, pool::stats().idle), (3, 0));
    let refused = start_job(&ctx, || ()).unwrap_err();
    assert!(matches!(refused.kind(), StartErrorKind::NoJobs { limit: 3 }));
    drop(paused);
    assert_eq!((pool::stats().in_use, pool::stats().idle), (0, 3));
    cleanup_thread().unwrap();
}

#[test]
fn handles_are_one_pointer_and_cross_threads() {
    fn send<T: Send>() {}
    send::<Stack>();
    assert_eq!(size_of::<Stack>(), 8);
    assert_eq!(size_of::<Option<Stack>>(), 8);
}
