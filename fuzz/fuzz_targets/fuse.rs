#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mezzo_outside::run("fuse", bytes));
