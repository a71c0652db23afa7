mod following;
mod host;

use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::{Value, json};
use uuid::Uuid;

use self::host::{Host, encoded, sign_parts};
use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const SECONDS: i64 = 1_800_000_000;

const ALGORITHMS: [AdmissionAlgorithm; 3] =
    [AdmissionAlgorithm::EdDsa, AdmissionAlgorithm::Es256, AdmissionAlgorithm::Rs256];

fn user() -> UserId {
    UserId::new(Uuid::from_u128(0xabcd))
}

fn claims() -> Value {
    json!({
        "sub": "00000000-0000-0000-0000-00000000abcd",
        "aud": "restante",
        "exp": SECONDS + 300,
    })
}

fn with(name: &str, to: Value) -> Value {
    let mut claims = claims();
    claims[name] = to;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn settings(algorithm: AdmissionAlgorithm, key: Option<String>, jwks: Option<String>) -> AdmissionSettings {
    AdmissionSettings { key, jwks: jwks.map(Into::into), algorithm, audience: "restante".into() }
}

/// Admissions that know the host's key from the settings.
fn knowing(host: &Host) -> Admissions {
    Admissions::new(&settings(host.algorithm(), Some(host.pem()), None)).unwrap().unwrap()
}

/// Admissions that read this JWK set from a file.
fn reading(algorithm: AdmissionAlgorithm, keys: &[Value]) -> Result<Admissions, AdmissionFault> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json!({ "keys": keys }).to_string()).unwrap();
    let path = file.path().display().to_string();
    Admissions::new(&settings(algorithm, None, Some(path))).map(Option::unwrap)
}

fn refusal(admissions: &Admissions, token: &str) -> Option<AdmissionRefusal> {
    admissions.check(token, user(), NOW).err()
}

#[test]
fn without_a_key_there_is_no_admission() {
    assert!(Admissions::new(&settings(AdmissionAlgorithm::EdDsa, None, None)).unwrap().is_none());
}

#[test]
fn a_token_of_the_host_application_admits_its_user() {
    for algorithm in ALGORITHMS {
        let host = Host::new(algorithm);
        let admissions = knowing(&host);
        let admission = admissions.check(&host.token(&claims()), user(), NOW).unwrap();
        assert!(!admission.recover);
        assert_eq!(admission.single_use.expires_at, Timestamp::from_millis((SECONDS + 360) * 1000));
        let upper = with("sub", json!("00000000-0000-0000-0000-00000000ABCD"));
        let among = with("aud", json!(["other", "restante"]));
        for good in [upper, among, with("recover", json!(false)), with("exp", json!(1_800_000_300.9))] {
            assert!(refusal(&admissions, &host.token(&good)).is_none(), "{good}");
        }
        let recovering = admissions.check(&host.token(&with("recover", json!(true))), user(), NOW);
        assert!(recovering.unwrap().recover);
    }
}

#[test]
fn every_claim_is_held_against_what_it_must_be() {
    use AdmissionRefusal::{Expired, Invalid, NotYet, WrongAudience, WrongSubject};
    let host = Host::new(AdmissionAlgorithm::EdDsa);
    let admissions = knowing(&host);
    for (claims, expected) in [
        (without("sub"), Some(WrongSubject)),
        (with("sub", json!(null)), Some(WrongSubject)),
        (with("sub", json!("00000000-0000-0000-0000-00000000abce")), Some(WrongSubject)),
        (with("sub", json!("0000000000000000000000000000abcd")), Some(WrongSubject)),
        (with("sub", json!("somebody")), Some(WrongSubject)),
        (with("sub", json!(7)), Some(Invalid)),
        (without("aud"), Some(WrongAudience)),
        (with("aud", json!("Restante")), Some(WrongAudience)),
        (with("aud", json!("restante ")), Some(WrongAudience)),
        (with("aud", json!([])), Some(WrongAudience)),
        (with("aud", json!(["other"])), Some(WrongAudience)),
        (with("aud", json!([["restante"]])), Some(Invalid)),
        (with("aud", json!({"restante": true})), Some(Invalid)),
        (without("exp"), Some(Invalid)),
        (with("exp", json!(null)), Some(Invalid)),
        (with("exp", json!("1800000300")), Some(Invalid)),
        (with("exp", json!(-1)), Some(Invalid)),
        (with("exp", json!(i64::MAX)), Some(Invalid)),
        (with("exp", json!(1e300)), Some(Invalid)),
        (with("exp", json!(0)), Some(Expired)),
        (with("exp", json!(SECONDS - 60)), Some(Expired)),
        (with("exp", json!(SECONDS - 59)), None),
        (with("nbf", json!(SECONDS + 61)), Some(NotYet)),
        (with("nbf", json!(SECONDS + 60)), None),
        (with("nbf", json!(0)), None),
        (with("nbf", json!(null)), None),
        (with("nbf", json!("soon")), Some(Invalid)),
        (with("nbf", json!(i64::MAX)), Some(Invalid)),
        (with("recover", json!("true")), Some(Invalid)),
        (with("recover", json!(1)), Some(Invalid)),
        (with("iat", json!("ignored")), None),
        (json!([]), Some(Invalid)),
        (json!("word"), Some(Invalid)),
    ] {
        assert_eq!(refusal(&admissions, &host.token(&claims)), expected, "{claims}");
    }
    let twice = format!(r#"{{"recover":true,{}"#, &with("recover", json!(false)).to_string()[1..]);
    let token = sign_parts(&host, &encoded(&host.header()), &URL_SAFE_NO_PAD.encode(twice));
    assert_eq!(refusal(&admissions, &token), Some(Invalid), "a claim that is there twice");
}

#[test]
fn a_token_counts_until_a_minute_after_its_end() {
    let host = Host::new(AdmissionAlgorithm::EdDsa);
    let admissions = knowing(&host);
    let token = host.token(&claims());
    let end = admissions.check(&token, user(), NOW).unwrap().single_use.expires_at;
    assert!(admissions.check(&token, user(), end.minus(Duration::from_millis(1))).is_ok());
    assert_eq!(admissions.check(&token, user(), end).unwrap_err(), AdmissionRefusal::Expired);
    let other = UserId::new(Uuid::from_u128(1));
    assert_eq!(admissions.check(&token, other, NOW).unwrap_err(), AdmissionRefusal::WrongSubject);
}

#[test]
fn the_algorithm_is_the_settings_and_never_the_tokens() {
    for configured in ALGORITHMS {
        let host = Host::new(configured);
        let admissions = knowing(&host);
        for other in ALGORITHMS.into_iter().filter(|other| *other != configured) {
            let stranger = Host::new(other);
            assert_eq!(refusal(&admissions, &stranger.token(&claims())), Some(AdmissionRefusal::Invalid));
            let posing = sign_parts(&stranger, &encoded(&host.header()), &encoded(&claims()));
            assert_eq!(refusal(&admissions, &posing), Some(AdmissionRefusal::Invalid));
            let crossed = Admissions::new(&settings(configured, Some(stranger.pem()), None));
            assert!(crossed.is_err(), "a key of another kind is a fault of the settings");
        }
        let twin = Host::another(configured);
        if let Some(twin) = twin {
            assert_eq!(refusal(&admissions, &twin.token(&claims())), Some(AdmissionRefusal::Invalid));
        }
    }
}

#[test]
fn a_forged_token_admits_nobody() {
    for algorithm in ALGORITHMS {
        let host = Host::new(algorithm);
        let admissions = knowing(&host);
        let good = host.token(&claims());
        let (input, signature) = good.rsplit_once('.').unwrap();
        let payload = encoded(&claims());
        let head = |header: Value| sign_parts(&host, &encoded(&header), &payload);
        let alg = |name: &str| head(json!({"alg": name, "typ": "JWT"}));
        let hs256 = format!("{}.{payload}", encoded(&json!({"alg": "HS256"})));
        let hmac = |secret: &[u8]| {
            let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), hs256.as_bytes());
            format!("{hs256}.{}", URL_SAFE_NO_PAD.encode(mac))
        };
        let der = host.pem().lines().filter(|line| !line.starts_with('-')).collect::<String>();
        let recovering = encoded(&with("recover", json!(true)));
        let name = algorithm_name(algorithm);
        for (case, bad) in [
            ("empty", String::new()),
            ("dots", "..".into()),
            ("no signature", format!("{input}.")),
            ("two parts", input.into()),
            ("four parts", format!("{good}.{signature}")),
            ("none", format!("{}.{payload}.", encoded(&json!({"alg": "none"})))),
            ("none, signed", alg("none")),
            ("another case", alg(&name.to_uppercase().replace("EDDSA", "EDdSA").replace('S', "s"))),
            ("no algorithm", head(json!({"typ": "JWT"}))),
            ("HS256 with the PEM as secret", hmac(host.pem().as_bytes())),
            ("HS256 with the DER as secret", hmac(&STANDARD.decode(der).unwrap())),
            ("crit", head(json!({"alg": name, "crit": ["b64"], "b64": false}))),
            ("a kid that is no text", head(json!({"alg": name, "kid": 7}))),
            ("another payload", format!("{}.{recovering}.{signature}", encoded(&host.header()))),
            ("padding", format!("{good}==")),
            ("a longer signature", format!("{good}AAAA")),
            ("too long", host.token(&with("note", json!("x".repeat(LONGEST))))),
        ] {
            assert_eq!(refusal(&admissions, &bad), Some(AdmissionRefusal::Invalid), "{name}: {case}");
        }
        let mut flipped = URL_SAFE_NO_PAD.decode(signature).unwrap();
        for bit in 0..flipped.len() * 8 {
            flipped[bit / 8] ^= 1 << (bit % 8);
            let forged = format!("{input}.{}", URL_SAFE_NO_PAD.encode(&flipped));
            assert_eq!(refusal(&admissions, &forged), Some(AdmissionRefusal::Invalid), "{name}: bit {bit}");
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn a_second_spelling_of_a_signature_is_no_second_use() {
    let host = Host::new(AdmissionAlgorithm::Es256);
    let admissions = knowing(&host);
    // ECDSA draws a nonce, so that the same claims have as many signatures as are made.
    let tokens = [host.token(&claims()), host.token(&claims()), Host::malleated(&host.token(&claims()))];
    assert!(tokens[0] != tokens[1] && tokens[0] != tokens[2]);
    let uses = tokens.map(|token| admissions.check(&token, user(), NOW).unwrap().single_use.hash);
    assert!(uses[0] == uses[1] && uses[0] == uses[2]);
    let other = host.token(&with("jti", json!("2")));
    assert_ne!(admissions.check(&other, user(), NOW).unwrap().single_use.hash, uses[0]);
}

#[test]
fn the_name_chooses_the_key_of_a_set() {
    for algorithm in ALGORITHMS {
        let (one, other) = (Host::new(algorithm), Host::another(algorithm).unwrap_or(Host::new(algorithm)));
        let both = reading(algorithm, &[one.jwk("one"), other.jwk("other")]).unwrap();
        assert!(refusal(&both, &one.named("one", &claims())).is_none());
        assert!(refusal(&both, &other.named("other", &claims())).is_none());
        for bad in [one.named("three", &claims()), one.token(&claims()), one.named("", &claims())] {
            assert_eq!(refusal(&both, &bad), Some(AdmissionRefusal::Invalid), "unknown or absent name");
        }
        let single = reading(algorithm, &[one.jwk("one")]).unwrap();
        assert!(refusal(&single, &one.token(&claims())).is_none(), "the only key needs no name");
        assert_eq!(refusal(&single, &one.named("two", &claims())), Some(AdmissionRefusal::Invalid));
    }
    let (one, other) =
        (Host::new(AdmissionAlgorithm::Es256), Host::another(AdmissionAlgorithm::Es256).unwrap());
    let both = reading(AdmissionAlgorithm::Es256, &[one.jwk("one"), other.jwk("other")]).unwrap();
    assert_eq!(refusal(&both, &one.named("other", &claims())), Some(AdmissionRefusal::Invalid));
}

#[test]
fn a_key_that_contradicts_itself_or_the_settings_is_left_out() {
    let changed = |jwk: &Value, name: &str, to: Value| {
        let mut jwk = jwk.clone();
        jwk[name] = to;
        jwk
    };
    for algorithm in ALGORITHMS {
        let host = Host::new(algorithm);
        let jwk = host.jwk("one");
        assert!(reading(algorithm, std::slice::from_ref(&jwk)).is_ok());
        for good in [("use", json!("sig")), ("key_ops", json!(["verify"])), ("note", json!(7))] {
            assert!(reading(algorithm, &[changed(&jwk, good.0, good.1)]).is_ok(), "{}", good.0);
        }
        for (name, to) in [
            ("alg", json!("HS256")),
            ("alg", json!("RS512")),
            ("use", json!("enc")),
            ("key_ops", json!(["sign"])),
            ("kty", json!("oct")),
            ("kty", json!(null)),
            ("crv", json!("P-384")),
            ("crv", json!("Ed448")),
            ("d", json!("AAAA")),
            ("x", json!("AAAA")),
            ("y", json!("!")),
            ("n", json!("AAAA")),
            ("e", json!("")),
        ] {
            // A member of another kind of key does no harm.
            if matches!(name, "x" | "y" | "n" | "e") && jwk.get(name).is_none() {
                continue;
            }
            let fault = reading(algorithm, &[changed(&jwk, name, to.clone())]).err().expect("left out");
            assert_eq!(fault.setting, "ADMISSION_JWKS", "{name} {to}");
            let beside = reading(algorithm, &[changed(&jwk, name, to), json!({}), json!(7), jwk.clone()]);
            assert!(refusal(&beside.unwrap(), &host.token(&claims())).is_none(), "the good one is left");
        }
        for other in ALGORITHMS.into_iter().filter(|other| *other != algorithm) {
            assert!(reading(other, std::slice::from_ref(&jwk)).is_err());
        }
    }
    let weak = json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([0; 32])});
    assert!(reading(AdmissionAlgorithm::EdDsa, &[weak]).is_err(), "anybody can sign under a weak key");
}

#[test]
fn a_key_that_cannot_be_used_is_a_fault_that_does_not_quote_it() {
    let host = Host::new(AdmissionAlgorithm::Rs256);
    let private = include_str!("../../../tests/data/admission-rsa.pem");
    let renamed = host.pem().replace("PUBLIC KEY", "CERTIFICATE");
    let cut = host.pem().replace("MIIB", "");
    for algorithm in ALGORITHMS {
        for bad in [private, &renamed, &cut, "-----BEGIN PUBLIC KEY-----", "/nowhere/key.pem", ""] {
            let fault = Admissions::new(&settings(algorithm, Some(bad.to_owned()), None)).err().unwrap();
            assert_eq!(fault.setting, "ADMISSION_KEY");
            assert!(!fault.to_string().contains("MII") && !fault.to_string().contains("nowhere"), "{fault}");
        }
        for bad in [
            "http://example.org/jwks",
            "http://localhost.example.org/",
            "http://127.0.0.1@example.org/",
            "http://10.0.0.1/jwks",
            "ftp://127.0.0.1/jwks",
            "file:///etc/passwd",
            "https://",
            "/nowhere/jwks?secret",
        ] {
            let fault = Admissions::new(&settings(algorithm, None, Some(bad.to_owned()))).err().expect(bad);
            assert_eq!(fault.setting, "ADMISSION_JWKS");
            assert!(!fault.to_string().contains("secret") && !fault.to_string().contains("example"));
        }
        for good in
            ["https://example.org/jwks?x=1", "http://localhost:1/", "http://127.8.0.1/", "http://[::1]:2/"]
        {
            let admissions = Admissions::new(&settings(algorithm, None, Some(good.to_owned()))).unwrap();
            let host = Host::new(algorithm);
            let refused = refusal(&admissions.unwrap(), &host.token(&claims()));
            assert_eq!(refused, Some(AdmissionRefusal::KeysUnavailable), "nothing was read so far");
        }
    }
}

#[test]
fn a_key_may_stand_in_a_file_or_in_one_line() {
    for algorithm in ALGORITHMS {
        let host = Host::new(algorithm);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), host.pem()).unwrap();
        for key in [host.pem().replace('\n', "\\n"), file.path().display().to_string()] {
            let admissions = Admissions::new(&settings(algorithm, Some(key), None)).unwrap().unwrap();
            assert!(refusal(&admissions, &host.named("any", &claims())).is_none());
        }
    }
}
