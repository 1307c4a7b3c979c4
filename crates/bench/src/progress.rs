//! The progress bar on standard error: what is being measured, and how long that will take.

use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar that one part of a run fills.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Shows a bar of `ticks` steps. Nothing is drawn when standard error is not a terminal.
    pub(crate) fn new(title: &str, ticks: u64) -> Self {
        let bar = ProgressBar::new(ticks);
        let style = ProgressStyle::with_template("{prefix:>8} {bar:32} {percent:>3}% {eta:>4} {wide_msg}");
        bar.set_style(style.expect("the template is a constant"));
        bar.set_prefix(title.to_string());
        Progress(bar)
    }

    /// Counts a step, which is about to run `what`. The bar is drawn a few times a second at most, and never while a
    /// candidate runs.
    pub(crate) fn tick(&self, what: &str) {
        if self.0.position().is_multiple_of(16) {
            self.0.set_message(what.to_string());
        }
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
