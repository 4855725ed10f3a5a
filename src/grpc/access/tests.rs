//! Tests of `access`.

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic_types::StatusExt;

use super::*;

/// Path of every method of every service that is served.
fn served_methods() -> Vec<String> {
    let mut paths = Vec::new();
    for set in crate::grpc::DESCRIPTORS {
        for file in FileDescriptorSet::decode(set).unwrap().file {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                if crate::grpc::served().contains(&name.as_str()) {
                    paths.extend(service.method.iter().map(|method| format!("/{name}/{}", method.name())));
                }
            }
        }
    }
    paths
}

#[test]
fn every_method_that_is_served_needs_what_the_table_says_and_no_other_exists() {
    let served = served_methods();
    assert_eq!(served.len(), METHODS.len());
    for path in &served {
        assert!(method(path).is_some(), "{path} is not in the table of permissions");
    }
    assert!(method("/holdfast.backup.v1.BackupService/backup").is_none());
    assert!(method("").is_none());
}

#[test]
fn the_table_says_what_the_contract_says() {
    let contracts = [
        ("holdfast.backup.v1.BackupService", include_str!("../../../proto/holdfast/backup/v1/backup_service.proto")),
        ("holdfast.backup.v1.AuditService", include_str!("../../../proto/holdfast/backup/v1/audit_service.proto")),
        ("holdfast.lock.v1.LockService", include_str!("../../../proto/holdfast/lock/v1/lock_service.proto")),
    ];
    let mut comment = String::new();
    let mut checked = 0;
    let lines = contracts.iter().flat_map(|(service, contract)| contract.lines().map(move |line| (service, line.trim())));
    for (service, line) in lines {
        if let Some(text) = line.strip_prefix("//") {
            comment.push_str(text);
        } else if let Some((name, _)) = line.strip_prefix("rpc ").and_then(|rpc| rpc.split_once('(')) {
            let (_, stated) = comment.rsplit_once("Permission `").unwrap_or_else(|| panic!("{name} states no permission"));
            let stated = stated.split_once('`').unwrap().0;
            match method(&format!("/{service}/{name}")) {
                Some((_, Need::Permission(permission))) => assert_eq!(permission.name(), stated, "{name}"),
                other => panic!("{name}: {other:?}"),
            }
            checked += 1;
            comment.clear();
        } else {
            comment.clear();
        }
    }
    assert_eq!(checked, 29);
}

#[test]
fn only_probes_are_open() {
    for (path, need) in METHODS {
        assert_eq!(*need == Need::Nothing, path.starts_with("/grpc.health.v1.Health/"), "{path}");
    }
}

fn authenticate(values: &[&str]) -> Result<Principal, String> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(header::AUTHORIZATION, value.parse().unwrap());
    }
    let token = Authenticator::static_token(" s3cret-token\n", "token:static").unwrap();
    token.authenticate(&headers).map_err(|failure| tonic::Status::from(*failure).get_details_error_info().unwrap().reason)
}

#[test]
fn the_token_proves_the_caller_and_nothing_else_does() {
    assert_eq!(authenticate(&["Bearer s3cret-token"]).unwrap().subject, "token:static");
    assert!(authenticate(&["bearer s3cret-token"]).is_ok());
    assert_eq!(authenticate(&[]).unwrap_err(), "CREDENTIALS_MISSING");
    for value in ["", "Bearer", "Bearer ", "Basic s3cret-token", "s3cret-token", "Bearer s3cret-toke", "Bearer s3cret-token2"] {
        assert_eq!(authenticate(&[value]).unwrap_err(), "CREDENTIALS_INVALID", "{value:?}");
    }
    assert_eq!(authenticate(&["Bearer s3cret-token", "Bearer x"]).unwrap_err(), "CREDENTIALS_INVALID");
}

#[test]
fn a_blank_token_is_no_token_and_none_is_printed() {
    assert!(Authenticator::static_token("", "token:static").is_none());
    assert!(Authenticator::static_token(" \n", "token:static").is_none());
    let text = format!("{:?}", Authenticator::static_token("s3cret-token", "token:static").unwrap());
    assert!(!text.contains("digest") && !text.contains("s3cret"), "{text}");
}

#[test]
fn a_principal_has_only_what_it_was_given() {
    let permissions = Permissions::Only(vec![Permission::BackupsCreate]);
    let scheduler = Principal { subject: "scheduler".into(), authentication: "token", permissions };
    assert!(scheduler.check(Permission::BackupsCreate).is_ok());
    let refused = tonic::Status::from(*scheduler.check(Permission::BackupsRestore).unwrap_err());
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert_eq!(refused.get_details_error_info().unwrap().metadata["permission"], "backups.restore");
}

#[test]
fn a_call_that_did_not_pass_the_gate_is_refused() {
    assert_eq!(accept(Request::new(())).unwrap_err().code(), tonic::Code::Unauthenticated);
}

#[test]
fn secrets_do_not_travel_in_the_clear() {
    let refused = check_transport(&Extensions::new(), false).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "TRANSPORT_NOT_SECURE");
    assert!(check_transport(&Extensions::new(), true).is_ok());
}
