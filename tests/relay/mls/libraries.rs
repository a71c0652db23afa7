//! The clients by themselves, without a relay: what the other tests build on.

use uuid::Uuid;

use crate::support::mls::{Change, LIBRARIES, Manner, MlsClient, Received, SUITES};

/// Everybody but the committer takes the commit; all are in one epoch then.
fn agree(members: &mut [Box<dyn MlsClient>], committer: usize, commit: &[u8]) {
    members[committer].accepted();
    for (index, member) in members.iter_mut().enumerate() {
        if index != committer {
            assert_eq!(member.receive(commit), Ok(Received::Commit), "{}", member.library());
        }
    }
    let expected = members[committer].authenticator();
    assert!(members.iter().all(|member| member.authenticator() == expected));
}

fn talk(members: &mut [Box<dyn MlsClient>]) {
    for from in 0..members.len() {
        let sealed = members[from].seal(b"hello");
        for to in (0..members.len()).filter(|to| *to != from) {
            assert_eq!(members[to].receive(&sealed), Ok(Received::Application(b"hello".to_vec())));
        }
    }
}

#[test]
fn clients_of_both_libraries_share_a_group_in_every_suite_and_both_manners() {
    for suite in SUITES {
        for private in [false, true] {
            for founder in LIBRARIES {
                let manner = Manner { suite, private };
                let mut members = vec![founder("a:phone", manner)];
                let group = Uuid::new_v4();
                members[0].create(group);
                let mut newcomers = [LIBRARIES[0]("b:phone", manner), LIBRARIES[1]("c:phone", manner)];
                let packages = newcomers.iter_mut().map(|member| member.key_package(false)).collect();
                let bundle = members[0].commit(Change::Add(packages));
                members[0].accepted();
                let tree = members[0].tree();
                for mut newcomer in newcomers {
                    newcomer.join(bundle.welcome.as_ref().unwrap(), Some(&tree));
                    members.push(newcomer);
                }
                talk(&mut members);
                for committer in 0..3 {
                    let bundle = members[committer].commit(Change::Update);
                    agree(&mut members, committer, &bundle.commit);
                }
                let gone = members[2].leaf();
                let bundle = members[1].commit(Change::Remove(vec![gone]));
                assert_eq!(members[2].receive(&bundle.commit), Ok(Received::Removed));
                members.truncate(2);
                agree(&mut members, 1, &bundle.commit);
                talk(&mut members);
            }
        }
    }
}
