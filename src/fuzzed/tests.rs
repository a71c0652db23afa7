//! The corpus, replayed and altered; and the seeds of the corpus, made by real clients.

mod altered;
#[path = "../../tests/relay/mls_rules/device.rs"]
#[expect(dead_code, reason = "seeds need a few of the things that a device can do")]
mod device;
mod mls;
mod seeds;

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{TARGETS, Target};
use altered::Alterations;

/// How many altered inputs each target reads; `RESTANTE_TEST_MUTATIONS` asks for more.
const MUTATIONS: u64 = 1000;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The corpus of a target, in the order of its names.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder().join("corpus").join(target)).unwrap();
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())
        })
        .collect();
    inputs.sort();
    inputs
}

/// Tells the input when what reads it panics.
struct Told<'a>(&'a str, &'a [u8]);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{} failed on this input, in base64: {}", self.0, STANDARD.encode(self.1));
        }
    }
}

fn read(name: &str, target: Target, input: &[u8]) -> bool {
    let _told = Told(name, input);
    target(input)
}

#[test]
fn every_input_of_the_corpus_keeps_the_promises_and_seeds_are_taken() {
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        assert!(corpus.iter().any(|(file, _)| file.starts_with("taken-")), "{name} has no seed");
        for (file, input) in corpus {
            let taken = read(name, target, &input);
            assert!(taken || !file.starts_with("taken-"), "{name}/{file} is refused");
        }
    }
}

#[test]
fn altered_inputs_keep_the_promises() {
    let mutations = env::var("RESTANTE_TEST_MUTATIONS").map_or(MUTATIONS, |text| text.parse().unwrap());
    for (name, target) in TARGETS {
        let inputs: Vec<_> = corpus(name).into_iter().map(|(_, input)| input).collect();
        for seed in 0..mutations {
            read(name, target, &Alterations::new(seed).alter(&inputs));
        }
    }
}

#[test]
fn every_target_has_its_program() {
    let names: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    let bins = manifest.split("[[bin]]").skip(1).map(|bin| bin.split('"').nth(1).unwrap().to_owned());
    assert_eq!(bins.collect::<BTreeSet<_>>(), names);
    for name in names {
        let program = folder().join("fuzz_targets").join(&name).with_extension("rs");
        assert!(fs::read_to_string(program).unwrap().contains(&format!("fuzzed::{name}(data)")), "{name}");
    }
}

/// What real clients make is taken. With `RESTANTE_WRITE_SEEDS` set it becomes the corpus' own seeds.
#[test]
fn what_real_clients_make_is_taken() {
    let writes = env::var_os("RESTANTE_WRITE_SEEDS").is_some();
    let (world, messages) = mls::made();
    let parsed = super::World::read(&world).unwrap();
    for (name, input) in &messages {
        let _told = Told("mls_message", input);
        assert!(super::mls_message_in(&parsed, input), "mls_message/{name} is refused");
    }
    let others = seeds::made();
    for (target, name, input) in &others {
        let (_, reads) = TARGETS.iter().find(|(known, _)| known == target).unwrap();
        assert!(read(target, *reads, input), "{target}/{name} is refused");
    }
    if writes {
        fs::write(folder().join("world.txt"), world).unwrap();
        let messages = messages.iter().map(|(name, input)| ("mls_message", *name, input));
        for (target, name, input) in
            messages.chain(others.iter().map(|(target, name, input)| (*target, *name, input)))
        {
            let folder = folder().join("corpus").join(target);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("taken-{name}")), input).unwrap();
        }
    }
}
