//! A program that forgot to export the C functions. It prints what [`asyncjob_capi::check`] says.

fn main() {
    match asyncjob_capi::check() {
        Ok(()) => println!("bound"),
        Err(why) => println!("{why}"),
    }
}
