//! The promises about settings: where they are written, who wins, what is told of them and what is not.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::support::process;

/// A secret of 32 bytes in base64.
const SECRET: &str = "aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1bnQ=";

/// A folder in which the program runs.
struct Place(TempDir);

impl Place {
    fn with(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        Self(folder)
    }

    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let environment: BTreeMap<_, _> = environment.iter().copied().collect();
        let mut program = Command::new(env!("CARGO_BIN_EXE_restante"));
        program.env_clear().envs(environment).current_dir(self.0.path()).stdin(Stdio::null());
        program.args(arguments).output().unwrap()
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn sound_settings_are_told_to_be_so() {
    let place = Place::with(&[("restante.toml", "port = 4321\n")]);
    for arguments in [&["config", "check"][..], &["config", "check", "--config", "restante.toml"]] {
        let told = place.run(arguments, &[]);
        assert_eq!(told.status.code(), Some(0), "{}", text(&told.stderr));
        assert_eq!(text(&told.stdout), "the settings are sound\n");
    }
}

#[test]
fn all_faults_of_all_places_are_told_by_every_command() {
    let place = Place::with(&[(".env", "WORKERS=many\n"), ("restante.toml", "port = \"high\"\nprot = 1\n")]);
    for command in
        [&["config", "check"][..], &["config", "print"], &["serve"], &["migrate"], &["healthcheck"]]
    {
        let arguments = [&["--config", "restante.toml"], command].concat();
        let told = place.run(&arguments, &[("AUTH_MODE", "none")]);
        assert_eq!(told.status.code(), Some(2), "{command:?}");
        assert!(told.stdout.is_empty());
        for fault in [
            "WORKERS must be a whole number from 0 to 1024",
            "restante.toml line 1: port must be a whole number without quotes",
            "restante.toml line 2: prot is not a setting; did you mean port?",
            "AUTH_MODE must be device or open",
        ] {
            assert!(text(&told.stderr).lines().any(|line| line == fault), "{}", text(&told.stderr));
        }
    }
}

#[test]
fn a_fault_of_what_settings_name_is_told_with_all_others_before_anything_is_opened() {
    let place = Place::with(&[("no-key", "hunter2"), ("keys.json", "{}")]);
    let mut environment = vec![
        ("WORKERS", "many"),
        ("TLS_CERT_PATH", "away.pem"),
        ("TLS_KEY_PATH", "no-key"),
        ("DATABASE_URL", "postgres://u:hunter2@db:port/restante"),
        ("REDIS_URL", "redis://:hunter2@cache:66666"),
        ("MASTER_SECRET", SECRET),
        ("TOKEN_SIGNING_KEY", "hunter2"),
        ("REGISTRATION", "token"),
        ("ADMISSION_KEY", "hunter2"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:hunter2@["),
    ];
    for command in [&["config", "check"][..], &["serve"], &[]] {
        let told = place.run(command, &environment);
        assert_eq!(told.status.code(), Some(2), "{command:?}");
        for fault in [
            "WORKERS must be a whole number",
            "TLS_CERT_PATH: the file cannot be read",
            "TLS_KEY_PATH: the file holds no private key",
            "DATABASE_URL cannot be read",
            "REDIS_URL cannot be read",
            "TOKEN_SIGNING_KEY: neither keys",
            "ADMISSION_KEY: the file cannot be read",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ] {
            let lines = text(&told.stderr).lines();
            assert_eq!(
                lines.filter(|line| line.starts_with(fault)).count(),
                1,
                "{fault}: {}",
                text(&told.stderr)
            );
        }
        assert_eq!(text(&told.stderr).lines().count(), 9, "{}", text(&told.stderr));
        assert!(!text(&told.stderr).contains("hunter2") && told.stdout.is_empty());
    }
    environment.retain(|(name, _)| *name != "ADMISSION_KEY");
    for (jwks, why) in [("away.json", "cannot be read"), ("keys.json", "no JWK set"), ("ftp://a", "https")] {
        environment.push(("ADMISSION_JWKS", jwks));
        let told = place.run(&["config", "check"], &environment);
        let fault = text(&told.stderr).lines().find(|line| line.starts_with("ADMISSION_JWKS: "));
        assert!(fault.is_some_and(|fault| fault.contains(why)), "{}", text(&told.stderr));
        environment.pop();
    }
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 2, "nothing was made");
}

#[test]
fn what_is_done_beside_a_relay_needs_none_of_the_files_that_a_relay_needs() {
    let place = Place::with(&[]);
    let environment = [
        ("TLS_CERT_PATH", "away.pem"),
        ("TLS_KEY_PATH", "away.key"),
        ("TOKEN_SIGNING_KEY", "away.keys"),
        ("REGISTRATION", "token"),
        ("ADMISSION_JWKS", "away.json"),
        ("PORT", "1"),
    ];
    for (command, code) in [
        (&["config", "print"][..], 0),
        (&["config", "value", "TLS_CERT_PATH"], 0),
        (&["migrate"], 0),
        (&["blocks", "list"], 0),
        (&["restored"], 0),
        (&["backup", "copy.db"], 0),
        (&["healthcheck"], 1),
        (&["config", "check"], 2),
    ] {
        let told = place.run(command, &environment);
        assert_eq!(told.status.code(), Some(code), "{command:?}: {}", text(&told.stderr));
    }
}

#[test]
fn a_file_that_is_not_there_is_a_fault() {
    let told = Place::with(&[]).run(&["--config", "away.toml", "config", "check"], &[]);
    assert_eq!(told.status.code(), Some(2));
    assert!(text(&told.stderr).contains("away.toml cannot be read"), "{}", text(&told.stderr));
}

#[test]
fn a_command_uses_the_file_that_is_named_and_the_environment_wins() {
    let place = Place::with(&[("restante.toml", "data_dir = \"from-the-file\"\n")]);
    let migrate = ["migrate", "--config", "restante.toml"];
    assert!(place.run(&migrate, &[]).status.success());
    assert!(place.0.path().join("from-the-file/restante.db").is_file());
    assert!(place.run(&migrate, &[("DATA_DIR", "from-the-environment")]).status.success());
    assert!(place.0.path().join("from-the-environment/restante.db").is_file());
}

#[test]
fn settings_in_effect_are_printed_with_their_source_and_without_secrets() {
    let place = Place::with(&[
        (".env", "RELAY_NAME=relay.example.org\nADMISSION_JWKS=https://u:hunter2@host/hunter2?key=hunter2\n"),
        (
            "restante.toml",
            "redis_url = \"redis://:hunter2@cache:6379\"\ncors_allowed_origins = [\"https://a\"]\n",
        ),
        ("master", SECRET),
    ]);
    let environment = [
        ("DATABASE_URL", "postgres://user:hunter2@db.internal:5432/restante?sslpassword=hunter2"),
        ("MASTER_SECRET_FILE", "master"),
        ("TOKEN_SIGNING_KEY", SECRET),
    ];
    let told = place.run(&["--config", "restante.toml", "config", "print"], &environment);
    assert!(told.status.success(), "{}", text(&told.stderr));
    let told = text(&told.stdout);
    for line in [
        "port = 8091  # default",
        "relay_name = \"relay.example.org\"  # .env",
        "admission_jwks = \"(set)\"  # .env",
        "redis_url = \"redis://***@cache:6379\"  # restante.toml",
        "cors_allowed_origins = [\"https://a\"]  # restante.toml",
        "database_url = \"postgres://***@db.internal:5432/restante?***\"  # environment",
        "master_secret = \"(set)\"  # environment",
        "token_signing_key = \"(set)\"  # environment",
    ] {
        assert!(told.lines().any(|other| other == line), "{line} in\n{told}");
    }
    for secret in ["hunter2", SECRET, "hunter2hunter2"] {
        assert!(!told.contains(secret), "{told}");
    }
}

#[test]
fn nothing_is_printed_of_a_collector_but_its_host_and_nothing_of_a_key_that_is_not_public() {
    let public = "-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----";
    let collector = "https://u:hunter2@collector:4318/hunter2/v1?key=hunter2";
    for (key, shown) in [(public, format!("{public:?}")), ("hunter2", "\"(set)\"".to_owned())] {
        let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector), ("ADMISSION_KEY", key)];
        let told = Place::with(&[]).run(&["config", "print"], &environment);
        let told = text(&told.stdout);
        for line in [
            "otel_exporter_otlp_endpoint = \"https://***@collector:4318/***\"  # environment".to_owned(),
            format!("admission_key = {shown}  # environment"),
        ] {
            assert!(told.lines().any(|other| other == line), "{line} in\n{told}");
        }
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn a_private_key_of_the_host_application_is_a_fault_and_is_not_told() {
    let private = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----";
    for look in ["check", "print"] {
        let told = Place::with(&[]).run(&["config", look], &[("ADMISSION_KEY", private)]);
        assert_eq!(told.status.code(), Some(2));
        let fault = "ADMISSION_KEY holds a private key";
        assert!(text(&told.stderr).contains(fault), "{}", text(&told.stderr));
        assert!(!text(&told.stderr).contains("hunter2") && told.stdout.is_empty());
    }
}

#[test]
fn a_script_is_told_the_value_of_a_setting_as_the_relay_takes_it() {
    const DSN: &str = "postgres://user:hunter2@db/restante";
    // What is wrong elsewhere does not matter.
    let files =
        [(".env", "DATABASE_URL_FILE=dsn\nWORKERS=many\n"), ("dsn", "postgres://user:hunter2@db/restante\n")];
    let place = Place::with(&[files[0], files[1], ("restante.toml", "data_dir = \"there\"\n")]);
    let value = |name: &str, environment: &[(&str, &str)]| {
        let told = place.run(&["--config", "restante.toml", "config", "value", name], environment);
        assert!(told.status.success(), "{}", text(&told.stderr));
        text(&told.stdout).trim_end().to_owned()
    };
    assert_eq!(value("DATABASE_URL", &[]), DSN);
    assert_eq!(value("DATABASE_URL", &[("DATABASE_URL", "")]), "");
    assert_eq!(value("DATABASE_URL", &[("DATABASE_URL", ""), ("DATABASE_URL_FILE", "dsn")]), DSN);
    assert_eq!(value("DATABASE_URL", &[("DATABASE_URL", "postgres://other")]), "postgres://other");
    assert_eq!(value("DATA_DIR", &[]), "there");
    assert_eq!(value("PORT", &[]), "8091");
    for (name, why) in [("DATA_DRI", "DATA_DRI is not a setting"), ("MASTER_SECRET", "cannot be read")] {
        let told = place.run(&["config", "value", name], &[("MASTER_SECRET_FILE", "away")]);
        assert_eq!(told.status.code(), Some(2));
        assert!(text(&told.stderr).contains(why) && told.stdout.is_empty(), "{}", text(&told.stderr));
    }
}

#[test]
fn an_operator_without_the_relays_settings_is_refused_and_leaves_nothing_behind() {
    let place = Place::with(&[]);
    for arguments in [&["list"][..], &["clear", "203.0.113.7"], &["clear", "--all"]] {
        let told = place.run(&[&["blocks"], arguments].concat(), &[]);
        assert_eq!(told.status.code(), Some(1), "{arguments:?}");
        assert_eq!(
            text(&told.stderr),
            "there is no database at ./restante-data: run this with the relay's own settings\n"
        );
        assert!(fs::read_dir(place.0.path()).unwrap().next().is_none());
    }
    // A database whose key lies elsewhere: an address would be looked for under another name.
    assert!(place.run(&["migrate"], &[]).status.success());
    let files = || fs::read_dir(place.0.path().join("restante-data")).unwrap().count();
    let before = files();
    let told = place.run(&["blocks", "clear", "203.0.113.7"], &[]);
    assert_eq!((told.status.code(), files()), (Some(1), before));
    assert!(text(&told.stderr).contains("there is no key at ./restante-data/master.key"));
    assert!(place.run(&["blocks", "clear", "203.0.113.7"], &[("MASTER_SECRET", SECRET)]).status.success());
}

#[test]
fn whoever_reads_no_further_ends_a_command_quietly() {
    let place = Place::with(&[]);
    assert!(place.run(&["migrate"], &[]).status.success());
    for arguments in [
        &["openapi"][..],
        &["schema"],
        &["config", "check"],
        &["config", "print"],
        &["config", "value", "PORT"],
        &["config", "example"],
        &["backup", "copy.db"],
        &["blocks", "clear", "--all"],
        &["restored"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut program = Command::new(env!("CARGO_BIN_EXE_restante"));
        program
            .env_clear()
            .current_dir(place.0.path())
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped());
        let ended = program.args(arguments).spawn().unwrap().wait_with_output().unwrap();
        assert_eq!((ended.status.code(), text(&ended.stderr)), (Some(0), ""), "{arguments:?}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut program = Command::new(env!("CARGO_BIN_EXE_restante"));
    program.env_clear().env("PORT", "x").current_dir(place.0.path()).stderr(writer);
    assert_eq!(
        program.args(["config", "check"]).status().unwrap().code(),
        Some(2),
        "the fault is told by the code"
    );
}

#[test]
fn a_relay_whose_greeting_nobody_reads_serves() {
    let place = Place::with(&[]);
    let port = process::free_port().to_string();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut program = Command::new(env!("CARGO_BIN_EXE_restante"));
    program.env_clear().env("PORT", &port).current_dir(place.0.path()).stdout(writer).stderr(Stdio::null());
    let mut relay = program.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    while !place.run(&["healthcheck"], &[("PORT", &port)]).status.success() && Instant::now() < deadline {
        assert!(relay.try_wait().unwrap().is_none(), "it ended");
    }
    assert!(relay.try_wait().unwrap().is_none(), "it ended");
    relay.kill().unwrap();
    relay.wait().unwrap();
}

#[test]
fn what_cannot_be_written_is_a_failure() {
    let place = Place::with(&[]);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_restante"));
    program.env_clear().current_dir(place.0.path()).stdout(full).stderr(Stdio::piped());
    let ended = program.arg("openapi").spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(text(&ended.stderr).contains("standard output cannot be written"), "{}", text(&ended.stderr));
}

#[test]
fn the_example_that_is_printed_is_a_sound_settings_file() {
    let example = Place::with(&[]).run(&["config", "example"], &[]);
    let place = Place::with(&[("restante.toml", text(&example.stdout))]);
    let told = place.run(&["--config", "restante.toml", "config", "check"], &[]);
    assert_eq!(told.status.code(), Some(0), "{}", text(&told.stderr));
}
