use tempfile::TempDir;

use super::*;
use crate::nats::generate;

fn template() -> Template {
    let rights = Rights { publish: vec!["site.{{name()}}.>".to_owned()], subscribe: vec![] };
    let shared = vec![Shared { subject: "next.{{reader}}".to_owned(), many: true }];
    Template { role: "site", rights, subscriptions: 16, payload: 1024, shared }
}

fn keep(folder: &TempDir) -> Authority {
    let keys = folder.path().join("keys");
    Authority::keep(&keys, &folder.path().join("accounts.conf"), &TenantName::default()).unwrap()
}

fn claims(account: &AccountJwt) -> Claims {
    let claims = jwt::read(&account.text).unwrap();
    assert_eq!(claims.iat, account.issued);
    // Servers compare ids before times.
    assert_eq!(claims.jti.as_ref().unwrap().len(), 64);
    claims
}

#[test]
fn keys_are_made_once_and_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let (first, again) = (keep(&folder), keep(&folder));
    assert_eq!(first.operator(), again.operator());
    assert_eq!((first.account(), first.system_account()), (again.account(), again.system_account()));
    for entry in fs::read_dir(folder.path().join("keys")).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn the_seed_of_the_operator_may_lie_elsewhere() {
    let folder = TempDir::new().unwrap();
    let first = keep(&folder);
    fs::remove_file(folder.path().join("keys/operator.seed")).unwrap();
    assert_eq!(keep(&folder).operator(), first.operator());
    assert!(!folder.path().join("keys/operator.seed").exists());
    // It is asked for when there are new keys to vouch for, and not replaced.
    fs::remove_file(folder.path().join("keys/system.seed")).unwrap();
    let keys = folder.path().join("keys");
    let kept = Authority::keep(&keys, &folder.path().join("accounts.conf"), &TenantName::default());
    assert!(matches!(kept, Err(AuthorityError::OperatorElsewhere { .. })));
}

#[test]
fn a_file_with_another_key_is_named() {
    let folder = TempDir::new().unwrap();
    keep(&folder);
    fs::write(folder.path().join("keys/members.seed"), generate().0).unwrap();
    let keys = folder.path().join("keys");
    let error = Authority::open(&keys, &folder.path().join("accounts.conf"), &TenantName::default()).err().unwrap();
    assert!(error.to_string().contains("members.seed"), "{error}");
}

#[test]
fn an_account_is_issued_anew_only_when_it_changes_and_always_later() {
    let folder = TempDir::new().unwrap();
    let authority = keep(&folder);
    let (nobody, key) = (BTreeSet::new(), generate().1);
    let first = authority.keep_account(&template(), Some(&nobody), None, 100).unwrap();
    assert_eq!(first.issued, 100);
    assert_eq!(authority.keep_account(&template(), Some(&nobody), None, 200).unwrap(), first);
    assert_eq!(authority.keep_account(&template(), None, Some(99), 200).unwrap(), first);

    // The clock went back, and somebody is revoked.
    let revoked = BTreeSet::from([key.clone()]);
    let second = authority.keep_account(&template(), Some(&revoked), None, 50).unwrap();
    assert_eq!(second.issued, 101);
    assert_eq!(claims(&second).nats["revocations"][key.as_str()], REVOKED_UNTIL);
    // Whoever does not know who is revoked changes nothing about it.
    assert_eq!(keep(&folder).keep_account(&template(), None, None, 50).unwrap(), second);
    let other = Template { subscriptions: 17, ..template() };
    let third = authority.keep_account(&other, None, None, 50).unwrap();
    assert_eq!((third.issued, &claims(&third).nats["revocations"]), (102, &claims(&second).nats["revocations"]));

    let ids = [&first, &second, &third].map(|account| claims(account).jti);
    assert!(ids[0] != ids[1] && ids[1] != ids[2]);

    // The server has one that was issued later.
    let fourth = authority.keep_account(&other, None, Some(500), 50).unwrap();
    assert_eq!((fourth.issued, claims(&fourth).nats), (501, claims(&third).nats));
}

#[test]
fn a_new_key_for_members_changes_the_account() {
    let folder = TempDir::new().unwrap();
    let first = keep(&folder);
    let before = first.keep_account(&template(), None, None, 100).unwrap();
    fs::remove_file(folder.path().join("keys/members.seed")).unwrap();
    let second = keep(&folder);
    assert_ne!(first.members(), second.members());
    let after = second.keep_account(&template(), None, None, 100).unwrap();
    assert_eq!(after.issued, before.issued + 1);
    assert_eq!(claims(&after).nats["signing_keys"][1]["key"], second.members());
}

#[test]
fn a_member_has_no_permissions_of_its_own_and_a_closed_direction_is_denied() {
    let folder = TempDir::new().unwrap();
    let authority = keep(&folder);
    let key = generate().1;
    let plant = "plant".parse().unwrap();
    let site = jwt::read_user(&authority.site(&plant, &key, 100, Some(Duration::from_secs(60))), &key).unwrap();
    assert_eq!((site.name.as_str(), site.exp, site.iss), ("plant", Some(160), authority.members()));
    assert_eq!(site.nats, json!({"type": "user", "version": 2, "issuer_account": authority.account()}));

    let node = jwt::read_user(&authority.node(&"plant/press".parse().unwrap(), &key, 100), &key).unwrap();
    assert_eq!((node.name.as_str(), node.exp), ("press", None));
    assert_eq!(node.nats["tags"], json!(["client:plant"]));
    assert!(node.nats.get("pub").is_none() && node.nats.get("subs").is_none());

    let silent = Rights { publish: vec![], subscribe: vec!["a".to_owned()] };
    let service = jwt::read_user(&authority.service("s", &key, &silent, 100), &key).unwrap();
    assert_eq!((&service.nats["pub"], &service.nats["sub"]), (&json!({"deny": [">"]}), &json!({"allow": ["a"]})));
    let account = authority.keep_account(&template(), None, None, 100).unwrap();
    let scope = &claims(&account).nats["signing_keys"][1]["template"];
    assert_eq!((&scope["pub"]["allow"][0], &scope["sub"]), (&json!("site.{{name()}}.>"), &json!({"deny": [">"]})));
    assert!(!account.text.contains("resp") && scope.get("resp").is_none());
}

#[test]
fn a_third_party_has_an_account_that_imports_its_own_and_without_its_seed_nothing() {
    let folder = TempDir::new().unwrap();
    let authority = keep(&folder);
    let (name, key) = ("erp".parse().unwrap(), generate().1);
    let before = authority.keep_account(&template(), None, None, 100).unwrap();
    assert!(claims(&before).nats.get("exports").is_none());
    let user = authority.reader(&name, &template(), &key, 100).unwrap();
    let user = jwt::read_user(&user, &key).unwrap();
    assert_eq!((&user.nats["pub"]["allow"], &user.nats["sub"]["allow"]), (&json!(["next.erp"]), &json!(["_INBOX.>"])));

    let with = authority.keep_account(&template(), None, None, 100).unwrap();
    assert_eq!(claims(&with).nats["exports"][0]["subject"], "next.erp");
    let [(account, text)] = &authority.reader_accounts().unwrap()[..] else { panic!("one account") };
    let held = jwt::read(text).unwrap();
    // The user is signed by the account, and the account by the operator.
    assert_eq!((&held.sub, &user.iss), (account, account));
    assert_eq!(held.nats["imports"][0]["account"], authority.account());
    assert_eq!((&held.nats["limits"]["disk_storage"], &held.nats["limits"]["exports"]), (&json!(0), &json!(0)));
    // Nothing changes when nothing changes.
    assert_eq!(keep(&folder).keep_account(&template(), None, None, 200).unwrap(), with);
    assert_eq!(keep(&folder).readers().unwrap(), BTreeSet::from([name]));

    fs::remove_file(folder.path().join("keys/readers/erp.seed")).unwrap();
    let without = authority.keep_account(&template(), None, None, 300).unwrap();
    assert!(claims(&without).nats.get("exports").is_none());
    assert_eq!(authority.reader_accounts().unwrap(), []);
}
