use bytes::Bytes;
use restante::{
    domain::{EnvelopeType, IdentityKey, Signature},
    keys::signal::{InvalidKey, parse_ec_prekey, verify},
    messages::structure,
};
use tempfile::TempDir;

use super::*;

const USER: Uuid = Uuid::from_u128(0xabcd);

fn new_device(out: PathBuf, device: &str) -> Value {
    let new = new_body(device, None, out);
    printed(Command::New(new))
}

fn new_body(device: &str, recover_with: Option<PathBuf>, out: PathBuf) -> NewDevice {
    let relay_name = "relay.example".into();
    NewDevice { relay_name, user: USER, device: device.into(), prekeys: 50, recover_with, out }
}

fn printed(command: Command) -> Value {
    serde_json::from_str(&run(command).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

fn signature(value: &Value) -> Signature {
    bytes(value).try_into().unwrap()
}

fn prekey(identity: &IdentityKey, value: &Value) -> Result<Bytes, InvalidKey> {
    parse_ec_prekey(identity, bytes(&value["public_key"]).into())
}

fn ids(prekeys: &Value) -> Vec<i64> {
    prekeys.as_array().unwrap().iter().map(|prekey| prekey["id"].as_i64().unwrap()).collect()
}

#[test]
fn a_new_device_prints_a_registration_that_the_relay_accepts() {
    let folder = TempDir::new().unwrap();
    let body = new_device(folder.path().join("phone"), "phone");

    let identity = parse_identity_key(&bytes(&body["identity_key"])).unwrap();
    let signed = prekey(&identity, &body["signed_prekey"]).unwrap();
    assert!(verify(&identity, &signed, &signature(&body["signed_prekey"]["signature"])));
    let device_id = DeviceId::parse("phone").unwrap();
    let statement = register_statement("relay.example", UserId::new(USER), &device_id, &signed);
    assert!(verify(&identity, &statement, &signature(&body["proof"])));
    assert!((1..=16383).contains(&body["registration_id"].as_i64().unwrap()));
    assert_eq!(ids(&body["onetime_prekeys"]), (1..=50).collect::<Vec<_>>());
    for onetime in body["onetime_prekeys"].as_array().unwrap() {
        prekey(&identity, onetime).unwrap();
    }
}

#[test]
fn an_existing_device_vouches_for_a_newcomer() {
    let folder = TempDir::new().unwrap();
    let phone = folder.path().join("phone");
    let identity = parse_identity_key(&bytes(&new_device(phone.clone(), "phone")["identity_key"])).unwrap();
    let newcomer = new_device(folder.path().join("laptop"), "laptop");

    let identity_key = newcomer["identity_key"].as_str().unwrap().to_owned();
    let body = printed(Command::Link(Newcomer { out: phone, device: "laptop".into(), identity_key }));
    let new_identity = parse_identity_key(&bytes(&body["identity_key"])).unwrap();
    let statement = link_statement(UserId::new(USER), &DeviceId::parse("laptop").unwrap(), &new_identity);
    assert!(verify(&identity, &statement, &signature(&body["signature"])));
}

#[test]
fn further_prekeys_and_a_rotation_have_fresh_ids() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().to_owned();
    let body = new_device(out.clone(), "phone");
    let identity = parse_identity_key(&bytes(&body["identity_key"])).unwrap();

    let first = printed(Command::Prekeys { out: out.clone(), count: 3 });
    let second = printed(Command::Prekeys { out: out.clone(), count: 2 });
    assert_eq!((ids(&first), ids(&second)), (vec![51, 52, 53], vec![54, 55]));
    assert_ne!(first[0]["public_key"], second[0]["public_key"]);

    let rotated = printed(Command::Rotate { out });
    let signed = prekey(&identity, &rotated).unwrap();
    assert!(verify(&identity, &signed, &signature(&rotated["signature"])));
    assert_eq!(rotated["id"], 2);
    assert_ne!(rotated["public_key"], body["signed_prekey"]["public_key"]);
}

#[test]
fn a_device_is_never_overwritten() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().to_owned();
    new_device(out.clone(), "phone");
    let again = new_body("phone", None, out);
    assert!(run(Command::New(again)).is_err());
}

#[cfg(unix)]
#[test]
fn private_keys_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;

    let folder = TempDir::new().unwrap();
    new_device(folder.path().to_owned(), "phone");
    let file = fs::metadata(folder.path().join(FILE)).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
}

#[test]
fn filler_passes_for_an_opaque_body() {
    for text in ["", &"a longer text ".repeat(20)] {
        let body = STANDARD.decode(run(Command::Seal { text: text.to_owned() }).unwrap()).unwrap();
        assert!(body.len() >= FILLER_MIN.max(text.len() + 28));
        assert_eq!(structure::check(EnvelopeType::Opaque, &body), Ok(()));
        assert!(!restante::domain::is_plaintext(&body));
    }
}

#[test]
fn a_device_answers_a_challenge() {
    let folder = TempDir::new().unwrap();
    let phone = folder.path().join("phone");
    let identity = parse_identity_key(&bytes(&new_device(phone.clone(), "phone")["identity_key"])).unwrap();
    let given = LoginAnswer { relay_name: "relay.example".into(), out: phone, challenge: "abc_-".into() };
    let body = printed(Command::Answer(given));
    assert_eq!((&body["device_id"], &body["challenge"]), (&json!("phone"), &json!("abc_-")));
    assert_eq!(body["user_id"], USER.to_string());
    let device_id = DeviceId::parse("phone").unwrap();
    let statement = login_statement("relay.example", UserId::new(USER), &device_id, "abc_-");
    assert!(verify(&identity, &statement, &signature(&body["signature"])));
}

#[test]
fn an_earlier_device_brings_its_user_back() {
    let folder = TempDir::new().unwrap();
    let earlier = folder.path().join("earlier");
    let old = parse_identity_key(&bytes(&new_device(earlier.clone(), "phone")["identity_key"])).unwrap();
    let body = printed(Command::New(new_body("phone", Some(earlier), folder.path().join("new"))));
    let new = parse_identity_key(&bytes(&body["identity_key"])).unwrap();
    let statement = recover_statement("relay.example", UserId::new(USER), &new);
    assert!(verify(&old, &statement, &signature(&body["recovery_proof"])));
}
