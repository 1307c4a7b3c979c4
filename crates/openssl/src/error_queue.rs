//! The error queue of OpenSSL travels with a job.

use std::mem;

use asyncjob::hooks::SwitchHooks;
use openssl::error::ErrorStack;

/// Hooks that keep the errors of a job apart from those of the other jobs of its thread.
///
/// OpenSSL has one error queue for each thread, and `SSL_get_error` looks into it. Without these hooks a job that
/// pauses with an error in the queue breaks the connection that runs next
/// ([S76](asyncjob::docs::openssl_behaviour#s76)). OpenSSL's own jobs have that fault. A switch with no errors costs
/// one look at the queue.
///
/// The marks of `ERR_set_mark` do not travel.
///
/// ```
/// use asyncjob::{JobBuilder, Step, pause_job};
/// use asyncjob_openssl::ErrorQueue;
/// use openssl::error::ErrorStack;
/// use openssl::x509::X509;
///
/// let step = JobBuilder::new().hooks(ErrorQueue::default()).start(|| {
///     X509::from_pem(b"none").unwrap_err().put();
///     pause_job().unwrap();
///     ErrorStack::get().errors().len()
/// })?;
/// let Step::Paused(job) = step else { panic!() };
/// assert!(ErrorStack::get().errors().is_empty()); // the job has its errors with it
/// let Step::Finished(errors) = job.resume() else { panic!() };
/// assert_ne!(errors, 0);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ErrorQueue {
    /// Of the job while it is paused, and of its resumer while it runs.
    other: Option<ErrorStack>,
}

impl ErrorQueue {
    fn exchange(&mut self) {
        let current = ErrorStack::get(); // takes them out of the queue
        let current = (!current.errors().is_empty()).then_some(current);
        if let Some(other) = mem::replace(&mut self.other, current) {
            other.put();
        }
    }
}

impl SwitchHooks for ErrorQueue {
    fn enter(&mut self) {
        self.exchange();
    }

    fn leave(&mut self) {
        self.exchange();
    }
}
