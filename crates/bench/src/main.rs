//! What a context switch costs: every peer beside the floor, in one run.

fn main() {}
