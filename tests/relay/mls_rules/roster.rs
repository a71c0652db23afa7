//! Big groups.

use restante::{
    domain::{MAX_MEMBERS, Role},
    groups::mls::Refusal,
};

use super::{
    commits::user,
    device::{Device, Manner},
    world::{Sent, World},
};

#[test]
fn a_group_has_1500_leaves_and_not_one_more() {
    let manner = Manner::default();
    let founder = Device::new(user(1), "desk", manner);
    let (mut world, mut session) = World::found(&founder, manner);
    let devices: Vec<_> =
        (2..=MAX_MEMBERS + 1).map(|number| Device::new(user(number as u128), "desk", manner)).collect();
    let packages: Vec<_> = devices.iter().map(|device| world.claim(device)).collect();
    let (last, rest) = packages.split_last().unwrap();

    let mut over = session.commit_builder();
    for package in rest.iter().chain([last]) {
        over = over.add_member(package.clone()).unwrap();
    }
    let over = Sent::from(&over.build().unwrap());
    // More than a group has members is not even read as a Welcome.
    assert!(world.judge(&founder, &over).is_err());

    session.clear_pending_commit();
    let mut again = session.commit_builder();
    for package in rest {
        again = again.add_member(package.clone()).unwrap();
    }
    let judged = world.accept(&founder, &Sent::from(&again.build().unwrap()));
    session.apply_pending_commit().unwrap();
    assert_eq!(judged.joiners.len(), MAX_MEMBERS - 1);
    let leaves: Vec<_> = judged.joiners.iter().map(|joining| joining.leaf_index.unwrap() as usize).collect();
    assert_eq!(leaves, (1..MAX_MEMBERS).collect::<Vec<_>>());

    world.role(&devices[0], Role::Admin);
    let one_more = session.commit_builder().add_member(last.clone()).unwrap().build().unwrap();
    assert_eq!(world.refusal(&founder, &Sent::from(&one_more)), Refusal::GroupFull);
    session.clear_pending_commit();
    let exchange = session.commit_builder().remove_member(700).unwrap().add_member(last.clone()).unwrap();
    let judged = world.accept(&founder, &Sent::from(&exchange.build().unwrap()));
    assert_eq!(judged.joiners[0].leaf_index, Some(700));
    assert_eq!(judged.removed, [devices[699].caller.device_no]);
}
