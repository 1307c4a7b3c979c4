//! Looks for a history of the C interface that differs from the model: see `crates/capi/tests/histories`.
#![no_main]

use std::ffi::{c_int, c_void};

use asyncjob_capi as _; // its functions have the names of the C interface
use histories::{Api, Function, Handle, functions};

#[path = "../../crates/capi/tests/histories/mod.rs"]
mod histories;

fn linked() -> Api {
    macro_rules! link {
        ($($field:ident = $symbol:ident: fn($($argument:ty),*) -> $result:ty;)*) => {
            {
                unsafe extern "C" {
                    $(fn $symbol($(_: $argument),*) -> $result;)*
                }
                Api { $($field: $symbol,)* }
            }
        };
    }
    functions!(link)
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| histories::run(linked(), bytes));
