use base64::{Engine as _, engine::general_purpose::STANDARD};

use secrecy::ExposeSecret;

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
fn one_mistake_is_told_once() {
    let secret = STANDARD.encode([7; 32]);
    let production = |name, value| {
        let sound =
            [("DATABASE_URL", "postgres://h/d"), ("MASTER_SECRET", &secret), ("TOKEN_SIGNING_KEY", &secret)];
        let others = sound.into_iter().filter(|(other, _)| !str::starts_with(name, other));
        faults(&others.chain([(name, value)]).collect::<Vec<_>>())
    };
    assert_eq!(production("MASTER_SECRET", "c2hvcnQ="), ["MASTER_SECRET must be 32 bytes in padded base64"]);
    assert_eq!(production("MASTER_SECRET_FILE", "/nowhere").len(), 1);
    assert_eq!(production("TOKEN_SIGNING_KEY_FILE", "/nowhere").len(), 1);
    assert_eq!(
        faults(&[
            ("MASTER_SECRT", &secret),
            ("DATABASE_URL", "postgres://h/d"),
            ("TOKEN_SIGNING_KEY", &secret)
        ]),
        ["MASTER_SECRT is not a setting; did you mean MASTER_SECRET?"]
    );
    assert_eq!(faults(&[("WS_HEARTBEAT_INTERVAL", "many"), ("WS_CLIENT_TIMEOUT", "20")]).len(), 1);
    assert_eq!(
        faults(&[("RELAY_NAME", "a b"), ("REGISTRATION", "token")]).len(),
        2,
        "but each of two is told"
    );
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
fn a_certificate_needs_its_key_and_makes_answers_strict() {
    let (certificate, key) = (("TLS_CERT_PATH", "/c"), ("TLS_KEY_PATH", "/k"));
    let lacking = |name: &str| format!("{name} is missing");
    assert!(faults(&[certificate])[0].starts_with(&lacking("TLS_KEY_PATH")));
    assert!(faults(&[key])[0].starts_with(&lacking("TLS_CERT_PATH")));
    let strict =
        |own: &[(&str, &str)]| Config::from_vars(&BTreeMap::new(), &vars(own)).unwrap().transport.is_strict();
    let setting = |value| ("STRICT_TRANSPORT_SECURITY", value);
    assert!(strict(&[certificate, key]) && strict(&[setting("on")]));
    assert!(!strict(&[]) && !strict(&[certificate, key, setting("off")]));
}

#[test]
fn origins_are_those_of_pages_on_the_web_and_inside_applications() {
    let told = |origin: &str| faults(&[("CORS_ALLOWED_ORIGINS", origin)]).len();
    for good in [
        "https://a.example",
        "http://localhost:3000",
        "http://[::1]:80",
        "capacitor://localhost",
        "app-1+x://a",
    ] {
        assert_eq!(told(good), 0, "{good}");
    }
    for bad in
        ["*", "null", "https://", "a.example", "https://a.example/", "HTTPS://a.example", "1x://a", "://a"]
    {
        assert_eq!(told(bad), 1, "{bad}");
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

/// The settings of a file, and of an environment beside it.
fn with_file(text: &str, env: &[(&str, &str)]) -> Result<Loaded, Faults> {
    let file = sources::parse("restante.toml".into(), text);
    let dot_env =
        Layer::of_text(Source::DotEnv, &vars(&[("RELAY_NAME", "from-dot-env"), ("MAX_DEVICES", "3")]));
    Config::from_layers(vec![dot_env, file, Layer::of_text(Source::Environment, &vars(env))]).done()
}

fn file_faults(text: &str) -> Vec<String> {
    with_file(text, &[]).map_or_else(|faults| faults.0, |_| Vec::new())
}

#[test]
fn a_file_wins_over_dot_env_and_the_environment_over_both() {
    let text = "port = 1\nrelay_name = \"from-the-file\"\nauth_open_allow_remote = true\n\
                mls_cipher_suites = [1, 3]\ntrusted_proxies = [\"10.0.0.0/8\", \"192.0.2.7\"]\n";
    let Loaded { config, in_effect } = with_file(text, &[("PORT", "2"), ("MAX_DEVICES", "")]).unwrap();
    assert_eq!((config.port, config.relay_name.as_str()), (2, "from-the-file"));
    assert!(config.auth_open_allow_remote);
    assert_eq!((config.mls.cipher_suites.len(), config.proxies.trusted.len()), (2, 2));
    assert_eq!(
        config.store_limits.max_devices, 10,
        "an empty value in the environment takes the others back"
    );
    let shown = |name: &str| {
        let found = in_effect.iter().find(|setting| setting.name == name).unwrap();
        format!("{} # {}", found.value, found.source)
    };
    assert_eq!(in_effect.len(), Config::known().len());
    assert_eq!(shown("port"), "2 # environment");
    assert_eq!(shown("relay_name"), "\"from-the-file\" # restante.toml");
    assert_eq!(shown("trusted_proxies"), "[\"10.0.0.0/8\", \"192.0.2.7\"] # restante.toml");
    assert_eq!(shown("max_devices"), "10 # default");
    assert_eq!(shown("redis_url"), "\"\" # default");
}

#[test]
fn faults_of_a_file_name_the_line_and_the_kind_that_is_meant() {
    let told =
        file_faults("port = \"8091\"\nprot = 1\nhost = 5\ncors_allowed_origins = \"x\"\nauth_mode = true\n");
    assert_eq!(
        told,
        [
            "restante.toml line 3: host must be a text in quotes",
            "restante.toml line 1: port must be a whole number without quotes",
            "restante.toml line 5: auth_mode must be a text in quotes",
            "restante.toml line 4: cors_allowed_origins must be a list such as [\"a\", \"b\"]",
            "restante.toml line 2: prot is not a setting; did you mean port?",
        ]
    );
    for (text, expected) in [
        ("port = 1.5", "port must be"),
        ("port = -1", "PORT must be a whole number from 0 to 65535"),
        ("[port]\nx = 1", "port must be"),
        ("trusted_proxies = [true]", "trusted_proxies must be"),
        ("trusted_proxies = [\"a,b\"]", "trusted_proxies must be"),
        ("PORT = 1", "lower case"),
        ("\n\nport = ", "restante.toml line 3: "),
        ("[relay]\nport = 1", "relay is not a setting"),
    ] {
        let told = file_faults(text);
        assert!(told.len() == 1 && told[0].contains(expected), "{text:?}: {told:?}");
    }
    assert_eq!(file_faults("port = \nhost = \nworkers = 1").len(), 2, "all faults at once");
}

#[test]
fn a_line_that_cannot_be_read_hides_no_fault_of_another() {
    let told = file_faults("PORT = 1\nport = \"x\"\nmax_in_flight = \"3\"\nws_client_timeout = 5\n");
    assert_eq!(
        told,
        [
            "restante.toml line 1: the names of settings are in lower case here",
            "restante.toml line 2: port must be a whole number without quotes",
            "restante.toml line 3: max_in_flight must be a whole number without quotes",
        ]
    );
    let told = file_faults("port = \nmax_in_flight = 0\ndatabase_url = \"mysql://h/d\"\n");
    assert_eq!(told.len(), 3, "{told:?}");
    let unread = "database_url = \"postgres://h/d\"\nmaster_secret = \ntoken_signing_key = x\n";
    assert_eq!(file_faults(unread).len(), 2, "what cannot be read is not called missing besides");
    let layers = vec![
        sources::file(Path::new("/nowhere")),
        Layer::of_text(Source::Environment, &vars(&[("PORT", "x")])),
    ];
    let told = Config::from_layers(layers).done().map(drop).unwrap_err().0;
    assert!(told.len() == 2 && told[1].starts_with("PORT"), "{told:?}");
}

#[test]
fn what_a_file_holds_is_never_quoted() {
    for text in [
        "database_url = \"\"\"\nhunter2 = 5",
        "database_url = 'postgres://\nhunter2 = 5\nHunter2 = 5'",
        "master_secret = [\nhunter2 = 5\nHunter2 = 5",
        "database_url = postgres://u:hunter2@h/d",
        "database_url = \"postgres://u:hunter2@h/d",
        "database_url = 'hunter2'\nmaster_secret = 'hunter2'\ntoken_signing_key = 'hunter2'",
        "master_secret = hunter2",
        "master_secret = [\"hunter2\"]",
        "master_secret = { hunter2 = 1 }",
        "redis_url = \"hunter2\"\nredis_url = \"hunter2\"",
        "master_secret \"hunter2\"",
        "master_secret = \"\\hunter2\"",
        "master_secret = 1979-05-27T07:32:00hunter2",
        "rust_log = \"restante=hunter2\"",
    ] {
        let told = file_faults(text);
        assert!(!told.is_empty(), "{text}");
        assert!(!told.iter().any(|fault| fault.contains("hunter2")), "{told:?}");
    }
}

#[test]
fn a_secret_may_stand_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let secret = STANDARD.encode([7; 32]);
    let (url, key) = (write("url", "postgres://u:hunter2@h/d\n"), write("key", &format!("{secret}\n")));
    let sound =
        [("DATABASE_URL_FILE", url.as_str()), ("MASTER_SECRET_FILE", &key), ("TOKEN_SIGNING_KEY", &key)];
    let config = Config::from_vars(&vars(&[("MASTER_SECRET", "c2hvcnQ=")]), &vars(&sound)).unwrap();
    assert_eq!(config.database_url.unwrap().expose_secret(), "postgres://u:hunter2@h/d");
    assert_eq!(config.master_secret.unwrap().0, [7; 32]);

    let read = with_file(&format!("master_secret_file = {key:?}"), &[]).unwrap();
    assert_eq!(read.config.master_secret.unwrap().0, [7; 32]);
    let taken_back = with_file(&format!("master_secret_file = {key:?}"), &[("MASTER_SECRET", "")]).unwrap();
    assert!(taken_back.config.master_secret.is_none());

    assert_eq!(
        faults(&[("MASTER_SECRET", &secret), ("MASTER_SECRET_FILE", &key)]),
        ["MASTER_SECRET and MASTER_SECRET_FILE exclude each other"]
    );
    let (empty, away) = (write("empty", " \n"), folder.path().join("away").display().to_string());
    assert_eq!(faults(&[("MASTER_SECRET_FILE", &empty)]), ["MASTER_SECRET_FILE: the file is empty"]);
    let told = faults(&[("MASTER_SECRET_FILE", &away)]);
    assert!(told[0].starts_with("MASTER_SECRET_FILE: the file cannot be read"), "{told:?}");
    assert_eq!(file_faults("master_secret_file = 5").len(), 1);
    assert_eq!(faults(&[("MASTER_SECRT_FILE", &key)]).len(), 1, "a typo of such a name is one");
    assert_eq!(
        faults(&[("RESTANTE_PORT_FILE", "x")]),
        [] as [&str; 0],
        "Kubernetes sets RESTANTE_PORT_ names"
    );
}

#[test]
fn what_is_shown_of_an_address_holds_no_password() {
    let shown = |url: &str| {
        let pairs = [("DATABASE_URL", url)];
        let mut reader = Reader::over(vec![Layer::of_text(Source::Environment, &vars(&pairs))]);
        reader.url("DATABASE_URL", &[]);
        reader.in_effect[0].value.clone()
    };
    for (url, expected) in [
        ("postgres://u:hunter2@db:5432/restante", "postgres://***@db:5432/restante"),
        ("postgres://db/restante?password=hunter2", "postgres://db/restante?***"),
        ("postgres://db/r?user=a@b&password=hunter2", "(set)"),
        ("postgres://u:hun?ter2@db/r", "(set)"),
        ("postgres://u:hun/ter2@db/r", "(set)"),
        ("postgres://u:p@hunter2@db/r", "postgres://***@db/r"),
        ("redis://:hunter2", "(set)"),
        ("redis+cluster://u:hunter2@a:1,[::1]:2,[::1]", "redis+cluster://***@a:1,[::1]:2,[::1]"),
        ("hunter2", "(set)"),
    ] {
        assert_eq!(shown(url), format!("{expected:?}"), "{url}");
    }
    assert_eq!(shown(""), "\"\"");
}

#[test]
fn an_unreadable_log_filter_is_a_fault() {
    assert_eq!(faults(&[("RUST_LOG", "restante=loud")]).len(), 1);
    assert!(faults(&[("RUST_LOG", "warn,restante::store=trace")]).is_empty());
}

#[test]
fn the_example_of_a_settings_file_is_the_committed_one_and_shows_the_defaults() {
    let committed = include_str!("../../restante.example.toml");
    assert!(committed == example(), "run: cargo run -- config example > restante.example.toml");
    let uncommented: Vec<_> = committed
        .lines()
        .map(|line| if line.starts_with("# ") { line } else { line.trim_start_matches('#') })
        .collect();
    let layer = sources::parse("restante.toml".into(), &uncommented.join("\n"));
    assert_eq!(layer.vars.len(), Config::known().len());
    let Loaded { in_effect, .. } = Config::from_layers(vec![layer]).done().unwrap();
    for (setting, known) in in_effect.iter().zip(Config::known()) {
        let default = known.in_effect(None, Source::Default);
        assert_eq!((&setting.name, &setting.value), (&default.name, &default.value));
    }
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
