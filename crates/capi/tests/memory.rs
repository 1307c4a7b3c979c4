//! Promise: a paused job takes less memory than on stock OpenSSL.

mod support;

use asyncjob_testing::tools::missing;
use support::{C_WITH_OPENSSL, OPENSSL, On, compile, printed};

/// S71.
#[test]
fn ten_thousand_paused_jobs_take_less_than_stock() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let program = compile("tests/c/paused_memory.c", OPENSSL);
    let bytes = |on: On| -> u64 { printed(on.command(&program)).trim().parse().unwrap() };
    let (ours, stock) = (bytes(On::Ours), bytes(On::Stock));
    println!("resident bytes a job: ours {ours}, stock {stock}");
    assert!(ours <= 5_600 && ours <= stock, "ours {ours}, stock {stock}");
}
