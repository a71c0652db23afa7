use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::*;

fn vars(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn faults(pairs: &[(&str, &str)]) -> Vec<String> {
    Config::from_vars(&BTreeMap::new(), &vars(pairs)).map_or_else(|faults| faults.0, |_| Vec::new())
}

#[test]
fn without_settings_the_relay_is_embedded_on_loopback() {
    let config = Config::from_vars(&BTreeMap::new(), &BTreeMap::new()).unwrap();
    assert_eq!(config.address().to_string(), "127.0.0.1:8091");
    assert!(config.database_url.is_none() && config.redis_url.is_none());
    assert_eq!(config.auth_mode, AuthMode::Device);
    assert_eq!(config.store_limits.mailbox_items_per_sender, 1000);
}

#[test]
fn mls_suites_are_named_by_number() {
    let read = |suites| Config::from_vars(&BTreeMap::new(), &vars(&[("MLS_CIPHER_SUITES", suites)]));
    let numbers =
        |config: Config| -> Vec<_> { config.mls.cipher_suites.iter().map(|suite| suite.number()).collect() };
    assert_eq!(numbers(read("").unwrap()), [1, 2, 3]);
    assert_eq!(numbers(read("1, 3").unwrap()), [1, 3]);
    for bad in ["4", "0", "1,", "one", "1;2"] {
        let Faults(told) = read(bad).unwrap_err();
        assert!(told.len() == 1 && told[0].starts_with("MLS_CIPHER_SUITES"), "{bad}: {told:?}");
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let told =
        faults(&[("PORT", "high"), ("HOST", "here"), ("REDIS_URL", "redis://x"), ("AUTH_MODE", "none")]);
    assert_eq!(told.len(), 4, "{told:?}");
    for name in ["PORT", "HOST", "REDIS_URL", "AUTH_MODE"] {
        assert!(told.iter().any(|fault| fault.starts_with(name)), "{name} in {told:?}");
    }
}

#[test]
fn typos_are_faults_that_name_what_was_meant() {
    assert_eq!(faults(&[("RESTANTE_PORT", "1")]), ["RESTANTE_PORT is not a setting; did you mean PORT?"]);
    assert_eq!(faults(&[("DATABSE_URL", "x")]), ["DATABSE_URL is not a setting; did you mean DATABASE_URL?"]);
    assert_eq!(faults(&[("WS_HEARTBEAT_INTERVALL", "5")]).len(), 1);
    assert!(
        faults(&[("PATH", "/bin"), ("HOSTNAME", "h"), ("HOME", "/"), ("POSTGRES_PASSWORD", "p")]).is_empty()
    );
    let file = vars(&[("SOMETHING", "x")]);
    assert!(Config::from_vars(&file, &BTreeMap::new()).is_err(), "a .env file holds settings only");
}

#[test]
fn production_needs_one_secret_for_all_nodes() {
    let told = faults(&[("DATABASE_URL", "postgres://h/d")]);
    assert!(told[0].starts_with("MASTER_SECRET is missing"), "{told:?}");
    assert!(told[1].starts_with("TOKEN_SIGNING_KEY is missing"), "{told:?}");
    assert_eq!(faults(&[("MASTER_SECRET", "c2hvcnQ=")]), ["MASTER_SECRET must be 32 bytes in padded base64"]);
}

#[test]
fn open_mode_stays_on_loopback_unless_it_is_really_meant() {
    let open = [("AUTH_MODE", "open"), ("HOST", "0.0.0.0")];
    assert_eq!(faults(&open).len(), 1);
    assert!(faults(&[open[0], open[1], ("AUTH_OPEN_ALLOW_REMOTE", "true")]).is_empty());
}

#[test]
fn a_cluster_of_redis_is_declared_with_its_seeds_and_faults_tell_no_password() {
    let production = |url: &str| {
        let secret = STANDARD.encode([7; 32]);
        let told = faults(&[
            ("DATABASE_URL", "postgres://h/d"),
            ("MASTER_SECRET", &secret),
            ("TOKEN_SIGNING_KEY", &secret),
            ("REDIS_URL", url),
        ]);
        assert!(!told.iter().any(|fault| fault.contains("hunter2")), "{told:?}");
        told.len()
    };
    for good in ["redis://:hunter2@h:1", "redis+cluster://a:1,b:2", "redis+cluster://u:hunter2@a,[::1]:7000"]
    {
        assert_eq!(production(good), 0, "{good}");
    }
    for bad in ["", "a,", "u:hunter2@", "u:hunter2@a/0", "a:x", "a:1,redis://b", "a?b", "a b", "u:hun/ter2@a"]
    {
        assert_eq!(production(&format!("redis+cluster://{bad}")), 1, "{bad}");
    }
    for bad in ["redis://:hunter2@a:1,b:2", "rediss+cluster://hunter2@a", "hunter2"] {
        assert_eq!(production(bad), 1, "{bad}");
    }
}

#[test]
fn the_size_of_a_send_has_two_names_that_may_not_contradict_each_other() {
    fn size(pairs: &[(&str, &str)]) -> Result<usize, Faults> {
        Config::from_vars(&BTreeMap::new(), &vars(pairs)).map(|config| config.limits.send)
    }
    let (name, other) = ("MAX_SEND_BYTES", "RATE_LIMIT_MAX_MESSAGE_SIZE");
    assert_eq!(size(&[]).unwrap(), 384 << 10);
    assert_eq!(size(&[(name, "200000")]).unwrap(), 200_000);
    assert_eq!(size(&[(other, "300000")]).unwrap(), 300_000);
    assert_eq!(size(&[(name, "200000"), (other, "200000")]).unwrap(), 200_000);
    let told = faults(&[(name, "200000"), (other, "300000")]);
    assert!(told.len() == 1 && told[0].starts_with(other), "{told:?}");
    assert_eq!(faults(&[(other, "many")]).len(), 1);
}

#[test]
fn debug_output_hides_secrets() {
    let secret = STANDARD.encode([7; 32]);
    let config = Config::from_vars(
        &BTreeMap::new(),
        &vars(&[
            ("DATABASE_URL", "postgres://user:hunter2@h/d"),
            ("MASTER_SECRET", &secret),
            ("TOKEN_SIGNING_KEY", &secret),
        ]),
    );
    let shown = format!("{:?}", config.unwrap());
    assert!(!shown.contains("hunter2") && !shown.contains("7, 7") && !shown.contains(&secret), "{shown}");
}

#[test]
fn the_example_file_shows_every_setting_with_its_default() {
    let example = include_str!("../../.env.example");
    let shown: Vec<Known> = Config::known();
    let lines: Vec<_> =
        example.lines().filter_map(|line| line.strip_prefix('#').unwrap_or(line).split_once('=')).collect();
    let named: Vec<_> =
        lines.iter().filter(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_')).collect();
    let expected: Vec<_> = shown.iter().map(|known| (known.name, known.default.as_str())).collect();
    let found: Vec<_> = named.iter().map(|(name, value)| (*name, *value)).collect();
    assert_eq!(found, expected);
}
