#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    restante::fuzzed::send_body(data);
});
