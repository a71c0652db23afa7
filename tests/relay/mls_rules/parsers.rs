//! Bytes of strangers.

use std::sync::LazyLock;

use bytes::Bytes;
use proptest::prelude::*;
use restante::{
    domain::{Epoch, Handshake},
    groups::mls::{ContentType, Header, NotMls, PublicSender, Welcome, added_package, found, found_private},
};

use super::{
    commits::{ADMIN, MEMBER, Three, three, user},
    device::{Calls, Device, Manner, bytes},
    world::{Sent, rules},
};

/// Genuine messages of every kind, and the group that they are of.
struct Genuine {
    three: Three,
    update: Sent,
    add: Sent,
    messages: Vec<Bytes>,
}

// A session is not `Sync`; each thread has its own.
thread_local! {
    static GENUINE: LazyLock<Genuine> = LazyLock::new(genuine);
}

fn genuine() -> Genuine {
    let mut three = three(Manner::default());
    let joiner = Device::new(user(8), "desk", Manner::default());
    let package = three.world.claim(&joiner);
    let proposal = bytes(&three.sessions[ADMIN].propose_add(package.clone(), Vec::new()).unwrap());
    three.sessions[ADMIN].clear_proposal_cache();
    let builder = three.sessions[ADMIN].commit_builder();
    let add = Sent::from(&builder.add_member(package.clone()).unwrap().build().unwrap());
    let application = bytes(&three.sessions[0].encrypt_application_message(b"hello", Vec::new()).unwrap());
    let update = three.update(MEMBER);
    let messages = vec![
        update.commit.clone(),
        add.commit.clone(),
        add.group_info.clone(),
        add.welcome.clone().unwrap(),
        proposal,
        application,
        bytes(&package),
        three.world.state.clone(),
        three.world.tree.clone(),
    ];
    Genuine { three, update, add, messages }
}

/// Gives bytes to everything that reads bytes.
fn read(genuine: &Genuine, message: &Bytes) {
    let _ = Header::parse(message).is_ok();
    let _ = Header::parse_application(message).is_ok();
    let _ = Welcome::parse(message).map(|welcome| welcome.references());
    let _ = added_package(message);
    let three = &genuine.three;
    let device = &three.devices[MEMBER];
    let rules = rules(three.world.group_id, Manner::default());
    let _ = found(&rules, &device.sender(), message, None).is_ok();
    let _ = found(&rules, &device.sender(), &three.world.group_info, Some(message)).is_ok();
    let _ = found_private(&rules, &device.sender(), message).is_ok();
    for (by, sent) in [(MEMBER, &genuine.update), (ADMIN, &genuine.add)] {
        let by = &three.devices[by];
        let _ = three.world.judge(by, &Sent { commit: message.clone(), ..sent.clone() }).is_ok();
        let _ = three.world.judge(by, &Sent { group_info: message.clone(), ..sent.clone() }).is_ok();
        let _ = three.world.judge(by, &Sent { welcome: Some(message.clone()), ..sent.clone() }).is_ok();
    }
    let mut at = three.world.at();
    at.epoch = Epoch(at.epoch.0);
    let sender = device.sender();
    let _ = restante::groups::mls::judge_proposals(
        &at,
        &three.world.state,
        &sender,
        std::slice::from_ref(message),
        &[],
    );
    let _ = restante::groups::mls::judge_proposals(&at, message, &sender, std::slice::from_ref(message), &[]);
    let _ = restante::groups::mls::judge_private_proposal(&at, &three.world.group_info, &sender, message);
    let _ = restante::groups::mls::judge_private_proposal(&at, message, &sender, message);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_bytes_make_a_parser_panic(message in proptest::collection::vec(any::<u8>(), 0..400)) {
        GENUINE.with(|genuine| read(genuine, &message.into()));
    }

    #[test]
    fn no_damage_to_a_genuine_message_makes_a_parser_panic(
        which in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        tail in proptest::collection::vec(any::<u8>(), 0..20),
        is_cut in any::<bool>(),
    ) {
        GENUINE.with(|genuine| {
            let mut message = which.get(&genuine.messages).to_vec();
            for (at, byte) in &flips {
                let at = at.index(message.len());
                message[at] = *byte;
            }
            if is_cut {
                message.truncate(cut.index(message.len()));
                message.extend(&tail);
            }
            read(genuine, &message.into());
        });
    }

    #[test]
    fn no_damage_to_a_stored_state_makes_the_relay_panic(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        GENUINE.with(|genuine| {
            let mut state = genuine.three.world.state.to_vec();
            let at = at.index(state.len());
            state[at] = byte;
            let world = &genuine.three.world;
            let sent = &genuine.update;
            let bundle = restante::groups::mls::CommitBundle {
                commit: &sent.commit,
                group_info: &sent.group_info,
                welcome: None,
            };
            let sender = genuine.three.devices[MEMBER].sender();
            let _ = restante::groups::mls::judge_commit(&world.at(), &state, &[], &sender, &bundle, &[]).is_ok();
        });
    }
}

/// The codec's reading of slices asserts that a vector is whole, before it says that it is not.
#[test]
fn a_message_that_was_cut_anywhere_makes_no_parser_panic() {
    GENUINE.with(|genuine| {
        for message in &genuine.messages {
            for length in (0..message.len()).step_by(13) {
                read(genuine, &message.slice(..length));
            }
        }
    });
}

#[test]
fn a_header_tells_kind_group_epoch_and_sender() {
    GENUINE.with(|genuine| {
        let world = &genuine.three.world;
        let Header::Public(framing, sender) = Header::parse(&genuine.update.commit).unwrap() else {
            panic!("a commit in the open")
        };
        assert_eq!((framing.group_id, framing.epoch), (world.group_id, world.epoch));
        assert_eq!((framing.content_type, sender), (ContentType::Commit, PublicSender::Member(2)));
        let kinds: Vec<_> =
            genuine.messages[..7].iter().map(|message| Header::parse(message).unwrap()).collect();
        assert!(matches!(
            kinds[1..],
            [
                Header::Public(..),
                Header::GroupInfo,
                Header::Welcome,
                Header::Public(..),
                Header::Private(_),
                Header::KeyPackage
            ]
        ));
        let application = Header::parse_application(&genuine.messages[5]).unwrap();
        assert_eq!((application.group_id, application.epoch), (world.group_id, world.epoch));
    });
}

#[test]
fn only_application_messages_are_application_messages() {
    GENUINE.with(|genuine| {
        for (index, message) in genuine.messages[..7].iter().enumerate() {
            let expected = if index == 5 { None } else { Some(NotMls::NotApplication) };
            assert_eq!(Header::parse_application(message).err(), expected, "message {index}");
        }
        let mut longer = genuine.messages[5].to_vec();
        longer.push(0);
        assert_eq!(Header::parse_application(&longer), Err(NotMls::Malformed));
    });
    let mut private = three(Manner { handshake: Handshake::Private, ..Manner::default() });
    let commit = private.update(MEMBER).commit;
    assert_eq!(Header::parse_application(&commit), Err(NotMls::NotApplication), "nor is a hidden commit");
}

#[test]
fn a_group_id_of_another_length_and_an_epoch_beyond_all_are_refused() {
    let message = |id: &[u8], epoch: u64| {
        let mut message = vec![0, 1, 0, 2, u8::try_from(id.len()).unwrap()];
        message.extend(id);
        message.extend(epoch.to_be_bytes());
        message.extend([1, 0, 0, 0]);
        message
    };
    assert!(Header::parse(&message(&[7; 16], 5)).is_ok());
    assert_eq!(Header::parse(&message(&[7; 32], 5)), Err(NotMls::GroupId));
    assert_eq!(Header::parse(&message(&[7; 16], 1 << 60)), Err(NotMls::Epoch));
    let mut version = message(&[7; 16], 5);
    version[1] = 2;
    assert_eq!(Header::parse(&version), Err(NotMls::Version));
    let mut format = message(&[7; 16], 5);
    format[3] = 9;
    assert_eq!(Header::parse(&format), Err(NotMls::WireFormat));
}
