use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use ring::hmac;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_456);
const LIFE: Duration = Duration::from_mins(15);

fn keys(seeds: &[u8]) -> SigningKeys {
    let seeds: Vec<_> = seeds.iter().map(|seed| STANDARD.encode([*seed; 32])).collect();
    SigningKeys::parse(&seeds.join(",")).unwrap()
}

fn tokens(name: &str, seeds: &[u8]) -> Tokens {
    Tokens::new(name, &keys(seeds), LIFE)
}

fn session() -> SessionId {
    SessionId::new(Uuid::from_u128(8))
}

fn principal() -> Principal {
    Principal {
        caller: Caller {
            user_id: UserId::new(Uuid::from_u128(7)),
            device_id: DeviceId::parse("phone").unwrap(),
            device_number: DeviceNumber::new(3).unwrap(),
            device_no: DeviceNo(99),
        },
        user_since: Timestamp::from_millis(1_700_000_000_999),
    }
}

fn part(token: &str, number: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(number).unwrap()).unwrap()).unwrap()
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A token with this header and payload that the key of `seed` really signed.
fn signed(seed: u8, header: &Value, payload: &Value) -> String {
    let input = format!("{}.{}", encoded(header), encoded(payload));
    let signature = SigningKey::from_bytes(&[seed; 32]).sign(input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

fn with(value: &Value, name: &str, to: Value) -> Value {
    let mut value = value.clone();
    value[name] = to;
    value
}

fn without(value: &Value, name: &str) -> Value {
    let mut value = value.clone();
    value.as_object_mut().unwrap().remove(name);
    value
}

#[test]
fn a_token_names_its_device_until_it_ends() {
    let tokens = tokens("relay", &[1]);
    let token = tokens.issue(&principal(), session(), NOW).unwrap();
    let end = Timestamp::from_millis(1_800_000_900_000);
    for _ in 0..2 {
        let claims = tokens.check(&token, NOW).unwrap();
        assert_eq!(claims.caller, principal().caller);
        assert_eq!(claims.session, session());
        assert_eq!(claims.user_since, Timestamp::from_millis(1_700_000_000_000));
        assert_eq!(claims.expires_at, end);
    }
    let fresh = self::tokens("relay", &[1]);
    for tokens in [&tokens, &fresh] {
        assert!(tokens.check(&token, end).is_none());
        assert!(tokens.check(&token, end.minus(Duration::from_millis(1))).is_some());
    }
    assert_eq!(part(&token, 0)["typ"], "at+jwt");
}

#[test]
fn a_repeated_answer_has_the_identical_token() {
    let nodes = [tokens("relay", &[1]), tokens("relay", &[1, 2])];
    let [one, other] = nodes.map(|tokens| tokens.issue(&principal(), session(), NOW).unwrap());
    assert_eq!(one, other);
}

#[test]
fn keys_rotate_without_ending_tokens() {
    let before = tokens("relay", &[1]).issue(&principal(), session(), NOW).unwrap();
    let during = tokens("relay", &[2, 1]);
    let after = tokens("relay", &[2]);
    let fresh = during.issue(&principal(), session(), NOW).unwrap();
    assert!(during.check(&before, NOW).is_some() && during.check(&fresh, NOW).is_some());
    assert!(after.check(&fresh, NOW).is_some());
    assert!(after.check(&before, NOW).is_none(), "its key was dropped");
}

#[test]
fn a_forged_or_foreign_token_is_worth_nothing() {
    let tokens = tokens("relay", &[1, 2]);
    let good = tokens.issue(&principal(), session(), NOW).unwrap();
    let (header, payload) = (part(&good, 0), part(&good, 1));
    assert!(tokens.check(&signed(1, &header, &payload), NOW).is_some(), "the forge works");
    let (input, signature) = good.rsplit_once('.').unwrap();
    let kid_2 = part(&self::tokens("relay", &[2]).issue(&principal(), session(), NOW).unwrap(), 0);
    let hs256 = with(&header, "alg", json!("HS256"));
    let public = SigningKey::from_bytes(&[1; 32]).verifying_key();
    let hmac_input = format!("{}.{}", encoded(&hs256), encoded(&payload));
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes()), hmac_input.as_bytes());
    let head = |name, to| signed(1, &with(&header, name, to), &payload);
    let body = |name, to| signed(1, &header, &with(&payload, name, to));
    for (case, bad) in [
        ("empty", String::new()),
        ("dots", "..".into()),
        ("not base64", "a.b.c".into()),
        ("no signature", format!("{input}.")),
        ("two parts", input.into()),
        ("a longer signature", format!("{good}A")),
        ("padding", format!("{good}==")),
        ("five parts", format!("{good}.{input}")),
        ("none", format!("{}.{}.", encoded(&json!({"alg": "none", "typ": "at+jwt"})), encoded(&payload))),
        ("none with a signature", head("alg", json!("none"))),
        ("HS256 with the public key", format!("{hmac_input}.{}", URL_SAFE_NO_PAD.encode(mac))),
        ("another algorithm", head("alg", json!("ES256"))),
        ("another key", signed(3, &header, &payload)),
        ("another key's name", signed(1, &kid_2, &payload)),
        ("the other key under this name", signed(2, &header, &payload)),
        ("an unknown kid", head("kid", json!("0123456789abcdef"))),
        ("no kid", signed(1, &without(&header, "kid"), &payload)),
        ("typ JWT", head("typ", json!("JWT"))),
        ("typ of a ticket", head("typ", json!("ticket+jwt"))),
        ("no typ", signed(1, &without(&header, "typ"), &payload)),
        ("crit", head("crit", json!(["exp"]))),
        ("another issuer", body("iss", json!("other"))),
        ("no issuer", signed(1, &header, &without(&payload, "iss"))),
        ("another audience", body("aud", json!("other"))),
        ("a ticket's audience", body("aud", json!("relay/ticket"))),
        ("no audience", signed(1, &header, &without(&payload, "aud"))),
        ("no end", signed(1, &header, &without(&payload, "exp"))),
        ("a user that is none", body("sub", json!("me"))),
        ("no user", signed(1, &header, &without(&payload, "sub"))),
        ("a device that is none", body("device_id", json!("me"))),
        ("a device number that is none", body("device_number", json!(0))),
        ("no session", signed(1, &header, &without(&payload, "sid"))),
        ("no age of the user", signed(1, &header, &without(&payload, "user_since"))),
        ("an end beyond time", body("exp", json!(i64::MIN))),
        (
            "a relay of another name",
            self::tokens("relay2", &[1]).issue(&principal(), session(), NOW).unwrap(),
        ),
        ("another payload", format!("{}.{}.{signature}", encoded(&header), encoded(&json!({})))),
    ] {
        for _ in 0..2 {
            assert!(tokens.check(&bad, NOW).is_none(), "{case}");
        }
    }
}

#[test]
fn no_bit_of_a_token_can_be_flipped() {
    let tokens = tokens("relay", &[1]);
    let good = tokens.issue(&principal(), session(), NOW).unwrap();
    let (input, signature) = good.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    for bit in 0..signature.len() * 8 {
        let mut flipped = signature.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let forged = format!("{input}.{}", URL_SAFE_NO_PAD.encode(flipped));
        assert!(tokens.check(&forged, NOW).is_none(), "bit {bit} of the signature");
    }
    for at in 0..good.len() {
        let mut flipped = good.clone().into_bytes();
        flipped[at] ^= 1;
        assert!(tokens.check(std::str::from_utf8(&flipped).unwrap(), NOW).is_none(), "character {at}");
    }
}

#[test]
fn a_token_lives_no_longer_than_tokens_do_now() {
    let token = Tokens::new("relay", &keys(&[1]), Duration::from_hours(24));
    let token = token.issue(&principal(), session(), NOW).unwrap();
    let tokens = tokens("relay", &[1]);
    assert!(tokens.check(&token, NOW.plus(Duration::from_secs(899))).is_some());
    assert!(tokens.check(&token, NOW.plus(LIFE)).is_none());
}

#[test]
fn a_ticket_says_what_its_token_says_for_half_a_minute() {
    let tokens = tokens("relay", &[1]);
    let claims = tokens.check(&tokens.issue(&principal(), session(), NOW).unwrap(), NOW).unwrap();
    let text = tokens.issue_ticket(&claims, NOW).unwrap();
    let ticket = tokens.check_ticket(&text, NOW).unwrap();
    assert_eq!(ticket.claims.caller, claims.caller);
    assert_eq!(ticket.claims.session, claims.session);
    assert_eq!(ticket.claims.user_since, claims.user_since);
    assert_eq!(ticket.claims.expires_at, claims.expires_at);
    let end = ticket.single_use.expires_at;
    assert_eq!(end, Timestamp::from_millis(1_800_000_030_000));
    assert!(tokens.check_ticket(&text, end.minus(Duration::from_millis(1))).is_some());
    assert!(tokens.check_ticket(&text, end).is_none());
    let again = tokens.check_ticket(&text, NOW).unwrap();
    let other = tokens.check_ticket(&tokens.issue_ticket(&claims, NOW).unwrap(), NOW).unwrap();
    assert_eq!(again.single_use.hash, ticket.single_use.hash);
    assert_ne!(other.single_use.hash, ticket.single_use.hash);
}

#[test]
fn a_ticket_never_outlives_its_token() {
    let tokens = tokens("relay", &[1]);
    let claims = tokens.check(&tokens.issue(&principal(), session(), NOW).unwrap(), NOW).unwrap();
    let late = claims.expires_at.minus(Duration::from_secs(10));
    let ticket = tokens.issue_ticket(&claims, late).unwrap();
    assert!(tokens.check_ticket(&ticket, late).is_some());
    assert!(tokens.check_ticket(&ticket, claims.expires_at).is_none());
}

#[test]
fn tickets_and_access_tokens_never_stand_for_each_other() {
    let tokens = tokens("relay", &[1]);
    let access = tokens.issue(&principal(), session(), NOW).unwrap();
    let claims = tokens.check(&access, NOW).unwrap();
    let ticket = tokens.issue_ticket(&claims, NOW).unwrap();
    assert!(tokens.check_ticket(&ticket, NOW).is_some());
    assert!(tokens.check(&ticket, NOW).is_none(), "a ticket, even one that was checked, is no access token");
    assert!(
        tokens.check_ticket(&access, NOW).is_none(),
        "an access token, even a remembered one, is no ticket"
    );
    let (header, payload) = (part(&ticket, 0), part(&ticket, 1));
    assert!(tokens.check_ticket(&signed(1, &header, &payload), NOW).is_some(), "the forge works");
    for (case, bad) in [
        ("typ of an access token", signed(1, &with(&header, "typ", json!("at+jwt")), &payload)),
        ("audience of an access token", signed(1, &header, &with(&payload, "aud", json!("relay")))),
        ("no jti", signed(1, &header, &without(&payload, "jti"))),
        ("a short jti", signed(1, &header, &with(&payload, "jti", json!("AAAA")))),
        ("no until", signed(1, &header, &without(&payload, "until"))),
        ("another key", signed(2, &header, &payload)),
    ] {
        assert!(tokens.check_ticket(&bad, NOW).is_none(), "{case}");
    }
}
