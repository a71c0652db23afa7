#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    restante::fuzzed::signal_body(data);
});
