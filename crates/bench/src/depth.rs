//! How many frames are between the loop and the switch.
//!
//! ```text
//!   caller                       job
//!   loop                         loop
//!     down  down  ...  resume      down  down  ...  pause
//!     `---- CALLER ---'            `----- JOB -----'
//! ```
//!
//! A processor predicts the target of a `ret` from the calls that it has executed. After a switch these are the calls
//! of the other side. So it mispredicts the return from each frame of the job, until the predictions are about the
//! job's own calls again. A pause in the loop itself shows no such misprediction. A pause eight calls deep in a TLS
//! library shows all of them.

use std::hint::black_box;

/// Calls `bottom` below `FRAMES` frames that the compiler may not merge. It may inline `bottom` into the last one.
#[inline(always)]
pub(crate) fn descend<const FRAMES: u32, F: FnMut()>(bottom: &mut F) {
    match FRAMES {
        0 => bottom(),
        1 => last(bottom),
        _ => down(FRAMES - 1, bottom),
    }
}

#[inline(never)]
fn down<F: FnMut()>(frames: u32, bottom: &mut F) {
    if frames == 1 {
        last(bottom);
    } else {
        down(frames - 1, bottom);
    }
    black_box(()); // or the call above would become a jump
}

/// This is not part of `down`: with a switch inlined, each frame of `down` would save every register.
#[inline(never)]
fn last<F: FnMut()>(bottom: &mut F) {
    bottom();
    black_box(());
}

/// The code of every peer's job: pauses `pauses` times, each time `FRAMES` frames deep, and returns to the loop in
/// between.
#[inline(always)]
pub(crate) fn pause_often<const FRAMES: u32>(pauses: u64, mut pause: impl FnMut()) {
    for _ in 0..pauses {
        descend::<FRAMES, _>(&mut pause);
    }
}

/// Goes down `FRAMES` frames once, and pauses there for ever. So the job touches the same memory of its stack at each
/// pause.
#[inline(always)]
pub(crate) fn pause_for_ever<const FRAMES: u32>(mut pause: impl FnMut()) {
    descend::<FRAMES, _>(&mut || {
        loop {
            pause();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of stack between this function and `bottom`.
    fn stack_used<const FRAMES: u32>() -> usize {
        let top = 0u8;
        let mut used = 0;
        descend::<FRAMES, _>(&mut || {
            let bottom = 0u8;
            used = black_box(&raw const top)
                .addr()
                .abs_diff(black_box(&raw const bottom).addr());
        });
        used
    }

    #[test]
    fn the_compiler_merges_no_frames() {
        let (none, four, eight) = (stack_used::<0>(), stack_used::<4>(), stack_used::<8>());
        assert!(four >= none + 3 * 16, "0 frames: {none} bytes, 4 frames: {four} bytes");
        assert!(
            eight >= four + 4 * 16,
            "4 frames: {four} bytes, 8 frames: {eight} bytes"
        );
    }
}
