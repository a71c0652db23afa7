//! Welcomes: whom they name, and their split.

use mls_rs::MlsMessage;
use restante::{
    domain::{CipherSuite, KeyPackageRef},
    groups::mls::{Refusal, Welcome, WelcomeFault},
};

use super::{
    commits::{ADMIN, Three, three, user},
    device::{Device, Manner, bytes},
    world::{Sent, known},
};

/// A commit that adds these devices, by packages that the relay has handed out.
fn adding(three: &mut Three, devices: &[&Device]) -> Sent {
    three.sessions[ADMIN].clear_pending_commit();
    let packages: Vec<_> = devices.iter().map(|device| three.world.claim(device)).collect();
    let mut builder = three.sessions[ADMIN].commit_builder();
    for package in packages {
        builder = builder.add_member(package).unwrap();
    }
    Sent::from(&builder.build().unwrap())
}

fn device(number: u128) -> Device {
    Device::new(user(number), "desk", Manner::default())
}

#[test]
fn a_welcome_names_every_added_package_and_no_other() {
    let mut three = three(Manner::default());
    let (a, b) = (device(8), device(9));
    let both = adding(&mut three, &[&a, &b]);
    let one = adding(&mut three, &[&a]);
    let other = adding(&mut three, &[&b]);
    for (commit, welcome) in [(&both, &one), (&one, &both), (&one, &other)] {
        let mixed = Sent { welcome: welcome.welcome.clone(), ..commit.clone() };
        assert_eq!(three.refusal(ADMIN, &mixed), WelcomeFault::References.into());
    }
    for garbage in [&b"\x00\x01\x00\x03"[..], b"", &both.commit] {
        let mixed = Sent { welcome: Some(garbage.to_vec().into()), ..both.clone() };
        assert_eq!(three.refusal(ADMIN, &mixed), WelcomeFault::Malformed.into());
    }
    let mut suite = one.welcome.clone().unwrap().to_vec();
    suite[5] = 3;
    let mixed = Sent { welcome: Some(suite.into()), ..one.clone() };
    assert_eq!(three.refusal(ADMIN, &mixed), WelcomeFault::Malformed.into());
    for right in [&both, &one, &other] {
        assert!(three.world.judge(&three.devices[ADMIN], right).is_ok());
    }
}

#[test]
fn a_package_enters_one_group_only_and_only_if_the_relay_handed_it_out() {
    let mut three = three(Manner::default());
    let joiner = device(8);
    let sent = adding(&mut three, &[&joiner]);
    let reference = three.world.packages.last().unwrap().reference;
    let refused = |three: &Three| three.refusal(ADMIN, &sent);
    assert!(three.world.judge(&three.devices[ADMIN], &sent).is_ok());

    let mut package = three.world.packages.pop().unwrap();
    assert_eq!(refused(&three), Refusal::PackageUsed(reference), "never handed out");
    package.usable = false;
    three.world.packages.push(package.clone());
    assert_eq!(refused(&three), Refusal::PackageUsed(reference), "used before");
    package = restante::groups::mls::KnownPackage { usable: true, active: false, ..package };
    *three.world.packages.last_mut().unwrap() = package.clone();
    assert_eq!(refused(&three), Refusal::UnknownDevice(joiner.caller.device_no));
    package = restante::groups::mls::KnownPackage {
        active: true,
        cipher_suite: CipherSuite::P256Aes128,
        ..package
    };
    *three.world.packages.last_mut().unwrap() = package;
    assert_eq!(refused(&three), Refusal::PackageUsed(reference), "of another suite");
}

#[test]
fn each_joiner_joins_by_its_own_part_of_the_welcome() {
    let mut three = three(Manner::default());
    let joiners: Vec<_> = (0..5).map(|number| device(100 + number)).collect();
    let sent = adding(&mut three, &joiners.iter().collect::<Vec<_>>());
    let whole = sent.welcome.clone().unwrap();
    let judged = three.accept(ADMIN, &sent);
    let tree = || three.sessions[ADMIN].export_tree();
    for joiner in &joiners {
        let of = |device: &Device| {
            let found = judged.joiners.iter().find(|joining| joining.device_no == device.caller.device_no);
            found.unwrap()
        };
        let own = of(joiner);
        assert_eq!(Welcome::parse(&own.welcome).unwrap().references(), [own.reference]);
        assert!(own.welcome.len() < whole.len() / 2);
        let message = MlsMessage::from_bytes(&own.welcome).unwrap();
        let (session, _) = joiner.client.join_group(Some(tree()), &message, None).unwrap();
        assert_eq!(Some(session.current_member_index()), own.leaf_index);
        let other = joiners.iter().find(|other| !std::ptr::eq(*other, joiner)).unwrap();
        let foreign = of(other);
        let foreign = MlsMessage::from_bytes(&foreign.welcome).unwrap();
        assert!(joiner.client.join_group(Some(tree()), &foreign, None).is_err());
    }
}

#[test]
fn a_welcome_that_names_one_package_twice_or_nobody_is_none() {
    let mut three = three(Manner::default());
    let sent = adding(&mut three, &[&device(8)]);
    let welcome = sent.welcome.unwrap();
    assert_eq!(Welcome::parse(&welcome).unwrap().cipher_suite(), CipherSuite::X25519Aes128);
    // version, wire format, suite; then the secrets behind two bytes of length.
    let length = usize::from(u16::from_be_bytes([welcome[6], welcome[7]]) & 0x3fff);
    let (secret, rest) = (&welcome[8..8 + length], &welcome[8 + length..]);
    let twice = u16::try_from(length * 2).unwrap() | 0x4000;
    let twice = [&welcome[..6], &twice.to_be_bytes(), secret, secret, rest].concat();
    assert!(Welcome::parse(&twice).is_err());
    let nobody = [&welcome[..6], &[0], rest].concat();
    assert!(Welcome::parse(&nobody).is_err());
}

#[test]
fn the_reference_of_a_package_is_the_one_that_the_welcome_names() {
    let mut three = three(Manner::default());
    let joiner = device(8);
    let package = three.world.claim(&joiner);
    let expected: KeyPackageRef = known(&joiner.caller, &package, CipherSuite::X25519Aes128).reference;
    let proposal = three.sessions[ADMIN].propose_add(package, Vec::new()).unwrap();
    assert_eq!(restante::groups::mls::added_package(&bytes(&proposal)), Some(expected));
}
