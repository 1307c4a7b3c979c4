//! How many frames lie between the loop and the switch.
//!
//! ```text
//!   caller                       job
//!   loop                         loop
//!     down  down  ...  resume      down  down  ...  pause
//!     `---- CALLER ---'            `----- JOB -----'
//! ```
//!
//! A processor guesses where a `ret` goes from the calls it has seen. After a switch these are the calls of the other
//! side, so each of the frames that the job returns through is guessed wrong, until the guesses meet the truth again.
//! A pause in the loop itself shows none of that, a pause eight calls deep in a TLS library shows all of it.

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
    black_box(()); // something left to do: without it the calls become jumps
}

/// Not part of `down`: with a switch inlined, each of its frames would save every register.
#[inline(never)]
fn last<F: FnMut()>(bottom: &mut F) {
    bottom();
    black_box(());
}

/// What the job of every peer does: pause `pauses` times, each time `FRAMES` frames deep, and return in between.
#[inline(always)]
pub(crate) fn pause_often<const FRAMES: u32>(pauses: u64, mut pause: impl FnMut()) {
    for _ in 0..pauses {
        descend::<FRAMES, _>(&mut pause);
    }
}

/// Goes down `FRAMES` frames once, and pauses there for ever: what it touches on its stack is the same at each pause.
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

    /// The stack that lies between here and the bottom.
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
    fn every_frame_is_really_there() {
        let (none, four, eight) = (stack_used::<0>(), stack_used::<4>(), stack_used::<8>());
        assert!(four >= none + 3 * 16, "0 frames: {none} bytes, 4 frames: {four} bytes");
        assert!(
            eight >= four + 4 * 16,
            "4 frames: {four} bytes, 8 frames: {eight} bytes"
        );
    }
}
