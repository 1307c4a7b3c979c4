//! Promise: TLS handshakes that pause in their callbacks run the same way on stock and with our library preloaded.

mod support;

use asyncjob_testing::tools::missing;
use support::{C_WITH_OPENSSL, OPENSSL, On, compile, printed};

#[test]
fn handshakes_that_pause_see_no_difference() {
    if missing(C_WITH_OPENSSL) {
        return;
    }
    let program = compile("tests/c/tls_pause.c", OPENSSL);
    let transcript = |on: On| {
        let mut command = on.command(&program);
        command.args(["24", "200000"]);
        printed(command)
    };
    let stock = transcript(On::Stock);
    for wake in ["pipe", "eventfd", "callback"] {
        for callback in ["servername", "certificate", "verify"] {
            assert!(stock.contains(&format!("{callback}: pause until {wake}")), "{stock}");
        }
    }
    assert_eq!(stock.matches("closed").count(), 48);
    assert!(stock.contains("TLSv1.2") && stock.contains("TLSv1.3"));
    assert_eq!(transcript(On::Ours), stock);
}
