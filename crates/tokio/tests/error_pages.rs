//! Promise: each error of this crate ends with the address of the page of the guide that helps, or is here with the
//! reason why it does not.

use std::path::Path;

use asyncjob::Panic;
use asyncjob::job_future::JobError;
use asyncjob_testing::error_pages::{check_errors, leads_nowhere, leads_to};
use asyncjob_tokio::{JoinError, Workers};

#[test]
fn each_error_leads_to_the_page_that_helps() {
    let panic = Panic::from(Box::new("a panic") as Box<dyn std::any::Any + Send>);
    let cases = [
        leads_to("tokio", JoinError::Job(JobError::Unwatched)), // as the error in it
        leads_nowhere("the program's own panic", JoinError::Panicked(panic)),
        leads_nowhere("the program has asked for it", JoinError::Cancelled),
        leads_to("tokio", JoinError::WorkersEnded),
        leads_to("fork", JoinError::Forked),
    ];
    check_errors(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &cases);
}

#[test]
fn workers_without_a_thread_lead_to_it_too() {
    let text = Workers::new(0).unwrap_err().to_string();
    assert!(text.ends_with("/docs/guide/tokio.md]"), "{text}");
}
