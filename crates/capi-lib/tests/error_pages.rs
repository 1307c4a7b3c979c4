//! Promise: each error of this crate ends with the address of the page of the guide that helps.

use std::path::Path;

use asyncjob_capi::NotBound;
use asyncjob_testing::error_pages::{check_errors, leads_to};

#[test]
fn each_error_leads_to_the_page_that_helps() {
    let not_exported = NotBound::NotExported {
        function: "ASYNC_start_job",
        reached: None,
    };
    let cases = [
        leads_to("openssl-engine", not_exported),
        leads_to("openssl-engine", NotBound::NoLibcrypto),
        leads_to("openssl-engine", NotBound::Static),
    ];
    check_errors(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &cases);
}
