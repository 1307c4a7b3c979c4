//! The jobs that no driver tells of: those that code drives by hand, those of the C drop-in, and those of a driver that
//! does not answer.
//!
//! ```text
//!   stacks of the process  --->  paused_jobs: copies of the frames  --->  drivers are asked  --->  still there, and
//!                                                                                                  told of by none?
//! ```
//!
//! Their threads take no part. A copy of each stack is made by the kernel, and the frames are found in the copy with
//! the unwind tables of the process.

use std::ops::Range;
use std::time::Duration;

pub(super) use self::frames::Walker;
use super::registry::Asked;
use crate::job::{JobId, JobInfo, JobState, Sighting, paused_jobs, walking};
use crate::sys::read_memory;

fn read(at: usize, bytes: &mut [u8]) -> Option<()> {
    read_memory(at, bytes).ok()
}

/// Reads the memory of this process: see [`read_memory`].
pub(super) const READ: fn(usize, &mut [u8]) -> Option<()> = read;

/// The paused jobs of the process, before the drivers are asked. A job that a driver tells of later is paused now, or
/// starts later.
pub(super) struct Outside {
    jobs: Vec<Sighting>,
}

impl Outside {
    pub(super) fn look() -> Self {
        Outside {
            jobs: paused_jobs(&READ),
        }
    }

    /// The jobs that are still paused, and that `is_told` says no of.
    pub(super) fn rest(self, is_told: impl Fn(JobId) -> bool) -> Vec<Asked> {
        let rest = self.jobs.into_iter().filter(|job| !is_told(job.id));
        let rest: Vec<_> = rest
            .filter_map(|job| job.look(&READ).map(|sight| (job, sight)))
            .collect();
        if rest.is_empty() {
            return Vec::new();
        }
        let walks = walking();
        let mut walker = Walker::new();
        drop(walks); // from here on it reads copies
        let asked = rest.into_iter().map(|(job, sight)| Asked {
            frames: walker.frames_of_paused(job.pointer, &sight.stack),
            info: JobInfo {
                id: job.id,
                name: sight.name,
                state: JobState::Paused,
                in_state: Duration::ZERO,
                fds: sight.waits.fds,
                status: sight.waits.status,
                deadline: sight.waits.deadline,
                high_water: sight.high_water,
                stack_size: sight.stack_size,
            },
        });
        asked.collect()
    }
}

/// The copy of a stack, for what reads it word by word.
struct Copied<'a> {
    addresses: Range<u64>,
    bytes: &'a [u8],
}

impl<'a> Copied<'a> {
    fn from(address: usize, bytes: &'a [u8]) -> Self {
        let start = address as u64;
        Copied {
            addresses: start..start + bytes.len() as u64,
            bytes,
        }
    }

    fn word(&self, address: u64) -> Option<u64> {
        let at = address.checked_sub(self.addresses.start)? as usize;
        let bytes = self.bytes.get(at..at.checked_add(size_of::<u64>())?)?;
        bytes.try_into().ok().map(u64::from_ne_bytes)
    }
}

mod frames {
    use framehop::{ExplicitModuleSectionInfo, Module, Unwinder};

    use super::Copied;
    use super::processor::{Cache, OurUnwinder, UnwindRegs, of_interrupted, of_paused};
    use crate::sys::{LoadedModule, Registers, loaded_modules, read_memory};

    /// How many frames are looked at. A stack that was copied while it changed may seem to have no end.
    const MOST_FRAMES: usize = 1000;

    /// Walks the frames of copied stacks.
    pub(in crate::insight) struct Walker {
        unwinder: OurUnwinder,
        cache: Cache,
    }

    impl Walker {
        pub(in crate::insight) fn new() -> Self {
            let mut unwinder = OurUnwinder::new();
            let modules = loaded_modules();
            modules
                .iter()
                .filter_map(module)
                .for_each(|module| unwinder.add_module(module));
            Walker {
                unwinder,
                cache: Cache::new(),
            }
        }

        /// The addresses of the frames, the innermost first. `pointer` is the stack pointer with which corosensei has
        /// suspended the job, and `bytes` are what lies from there to the end of the stack.
        pub(in crate::insight) fn frames_of_paused(&mut self, pointer: usize, bytes: &[u8]) -> Vec<usize> {
            let stack = Copied::from(pointer, bytes);
            let at = of_paused(&stack);
            at.map_or_else(Vec::new, |(code, registers)| self.walk(code, registers, &stack))
        }

        /// The addresses of the frames of code that was interrupted, the innermost first. `bytes` are what lies from
        /// its stack pointer to the end of its stack.
        pub(in crate::insight) fn frames_of_interrupted(&mut self, at: Registers, bytes: &[u8]) -> Vec<usize> {
            let stack = Copied::from(at.stack, bytes);
            self.walk(at.code as u64, of_interrupted(at), &stack)
        }

        fn walk(&mut self, code: u64, registers: UnwindRegs, stack: &Copied<'_>) -> Vec<usize> {
            let mut read = |address| stack.word(address).ok_or(());
            let mut walk = self.unwinder.iter_frames(code, registers, &mut self.cache, &mut read);
            let mut frames = Vec::new();
            while let Ok(Some(frame)) = walk.next() {
                frames.push(frame.address() as usize);
                if frames.len() == MOST_FRAMES {
                    break;
                }
            }
            frames
        }
    }

    /// The unwind tables of a module, copied.
    fn module(found: &LoadedModule) -> Option<Module<Vec<u8>>> {
        let copy = |(start, end): (u64, u64)| {
            let mut bytes = vec![0; end.checked_sub(start)? as usize];
            read_memory((found.bias + start) as usize, &mut bytes).ok()?;
            Some(bytes)
        };
        let eh_frame_hdr = copy(found.eh_frame_hdr)?;
        // Version 1, and then how the address of the tables is written. All linkers write the distance from the place
        // of the distance itself, as an `i32` (the numbers are DW_EH_PE_pcrel and DW_EH_PE_sdata4 of the LSB).
        let &[1, 0x1b, _, _, a, b, c, d, ..] = &eh_frame_hdr[..] else {
            return None;
        };
        let distance = i64::from(i32::from_ne_bytes([a, b, c, d]));
        let eh_frame_at = (found.eh_frame_hdr.0 + 4).checked_add_signed(distance)?;
        let holds = |&&(start, end): &&(u64, u64)| (start..end).contains(&eh_frame_at);
        let eh_frame_range = (eh_frame_at, found.segments.iter().find(holds)?.1);
        let start = found.segments.iter().map(|(start, _)| start).min()?;
        let end = found.segments.iter().map(|(_, end)| end).max()?;
        let section_info = ExplicitModuleSectionInfo {
            base_svma: 0,
            eh_frame_svma: Some(eh_frame_range.0..eh_frame_range.1),
            eh_frame: Some(copy(eh_frame_range)?),
            eh_frame_hdr_svma: Some(found.eh_frame_hdr.0..found.eh_frame_hdr.1),
            eh_frame_hdr: Some(eh_frame_hdr),
            ..Default::default()
        };
        let addresses = found.bias + start..found.bias + end;
        Some(Module::new(String::new(), addresses, found.bias, section_info))
    }
}

/// Where corosensei has suspended a job, and what a walk of its frames begins with.
#[cfg(target_arch = "x86_64")]
mod processor {
    pub(super) use framehop::x86_64::{CacheX86_64 as Cache, UnwindRegsX86_64 as UnwindRegs};

    use super::Copied;
    use crate::sys::Registers;

    pub(super) type OurUnwinder = framehop::x86_64::UnwinderX86_64<Vec<u8>>;

    /// At the stack pointer lie the address at which the job goes on, `rbx` and `rbp`. With the address goes the stack
    /// pointer above these three.
    pub(super) fn of_paused(stack: &Copied<'_>) -> Option<(u64, UnwindRegs)> {
        let start = stack.addresses.start;
        let (rip, rbp) = (stack.word(start)?, stack.word(start + 16)?);
        Some((rip, UnwindRegs::new(rip, start + 24, rbp)))
    }

    pub(super) fn of_interrupted(at: Registers) -> UnwindRegs {
        UnwindRegs::new(at.code as u64, at.stack as u64, at.frame as u64)
    }
}

#[cfg(target_arch = "aarch64")]
mod processor {
    pub(super) use framehop::aarch64::{CacheAarch64 as Cache, UnwindRegsAarch64 as UnwindRegs};

    use framehop::aarch64::PtrAuthMask;

    use super::Copied;
    use crate::sys::Registers;

    pub(super) type OurUnwinder = framehop::aarch64::UnwinderAarch64<Vec<u8>>;

    /// The highest address that Linux gives a program that does not ask for higher ones. Above it lies the signature of
    /// a return address that is signed.
    const HIGHEST_ADDRESS: u64 = (1 << 48) - 1;

    /// At the stack pointer lie `x19`, `x29`, the address at which the job goes on, and nothing. With the address goes
    /// the stack pointer above these four, and a link register whose value was lost.
    pub(super) fn of_paused(stack: &Copied<'_>) -> Option<(u64, UnwindRegs)> {
        let start = stack.addresses.start;
        let (frame, code) = (stack.word(start + 8)?, stack.word(start + 16)?);
        Some((code, registers(0, start + 32, frame)))
    }

    pub(super) fn of_interrupted(at: Registers) -> UnwindRegs {
        registers(at.link as u64, at.stack as u64, at.frame as u64)
    }

    fn registers(link: u64, stack: u64, frame: u64) -> UnwindRegs {
        let mask = PtrAuthMask::from_max_known_address(HIGHEST_ADDRESS);
        UnwindRegs::new_with_ptr_auth_mask(mask, link, stack, frame)
    }
}
