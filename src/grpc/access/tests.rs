//! Tests of `access`.

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::codegen::http::HeaderMap;
use tonic_types::StatusExt;

use super::*;
use crate::grpc::tls::Certificate;

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
    assert_eq!(checked, 31);
}

#[test]
fn only_probes_are_open() {
    for (path, need) in METHODS {
        assert_eq!(*need == Need::Nothing, path.starts_with("/grpc.health.v1.Health/"), "{path}");
    }
}

/// With one token, of `token:static`.
fn with_token(text: &str, bindings: &[&str]) -> Option<Authenticator> {
    let bindings = Bindings::parse(bindings.iter().copied()).unwrap();
    Authenticator::new(bindings).with_token(text, "token:static", &[Role::BackupAdmin])
}

async fn authenticate(values: &[&str]) -> Result<Principal, String> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(header::AUTHORIZATION, value.parse().unwrap());
    }
    let token = with_token(" s3cret-token\n", &[]).unwrap();
    token
        .authenticate(&headers, None)
        .await
        .map_err(|failure| tonic::Status::from(*failure).get_details_error_info().unwrap().reason)
}

#[tokio::test]
async fn the_token_proves_the_caller_and_nothing_else_does() {
    assert_eq!(authenticate(&["Bearer s3cret-token"]).await.unwrap().subject, "token:static");
    assert!(authenticate(&["bearer s3cret-token"]).await.is_ok());
    assert_eq!(authenticate(&[]).await.unwrap_err(), "CREDENTIALS_MISSING");
    for value in ["", "Bearer", "Bearer ", "Basic s3cret-token", "s3cret-token", "Bearer s3cret-toke", "Bearer s3cret-token2"] {
        assert_eq!(authenticate(&[value]).await.unwrap_err(), "CREDENTIALS_INVALID", "{value:?}");
    }
    assert_eq!(authenticate(&["Bearer s3cret-token", "Bearer x"]).await.unwrap_err(), "CREDENTIALS_INVALID");
}

#[test]
fn a_blank_token_is_no_token_and_none_is_printed() {
    assert!(with_token("", &[]).is_none() && with_token(" \n", &[]).is_none());
    let text = format!("{:?}", with_token("s3cret-token", &[]).unwrap());
    assert!(!text.contains("digest") && !text.contains("s3cret"), "{text}");
}

#[test]
fn a_principal_has_only_what_it_was_given() {
    let scheduler = Principal { subject: "token:cron".into(), authentication: "token", roles: vec![Role::Scheduler] };
    assert!(scheduler.check(Permission::BackupsCreate).is_ok());
    let refused = tonic::Status::from(*scheduler.check(Permission::BackupsRestore).unwrap_err());
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert_eq!(refused.get_details_error_info().unwrap().metadata["permission"], "backups.restore");
}

#[tokio::test]
async fn a_role_that_is_bound_to_a_subject_is_its_only_one_and_without_any_it_may_do_nothing() {
    let mut headers = HeaderMap::new();
    headers.append(header::AUTHORIZATION, "Bearer s3cret-token".parse().unwrap());
    let bound = with_token("s3cret-token", &["token:static=monitoring"]).unwrap();
    assert_eq!(bound.authenticate(&headers, None).await.unwrap().roles, [Role::Monitoring]);

    let peer = |certificate| Peer::at(([127, 0, 0, 1], 7).into(), true, certificate);
    let by_certificate = async |bindings: &[&str], certificate| {
        let authenticator = Authenticator::new(Bindings::parse(bindings.iter().copied()).unwrap()).with_certificates();
        authenticator.authenticate(&HeaderMap::new(), Some(&peer(certificate))).await
    };
    let update = Certificate::Of("spiffe://example.org/update".into());
    let unbound = by_certificate(&[], update.clone()).await.unwrap();
    assert!(unbound.roles.is_empty() && unbound.check(Permission::BackupsRead).is_err());
    let known = by_certificate(&["spiffe://example.org/update=update-service"], update.clone()).await.unwrap();
    assert_eq!((known.subject.as_str(), known.authentication), ("spiffe://example.org/update", "mtls"));
    assert_eq!(known.roles, [Role::UpdateService]);
    assert_eq!(by_certificate(&[], Certificate::None).await.unwrap_err().reason, Reason::CredentialsMissing);
    assert_eq!(by_certificate(&[], Certificate::Unnamed).await.unwrap_err().reason, Reason::CredentialsInvalid);
    // Certificates count only where an authority for them is configured; and a token decides where there is one.
    let tokens = with_token("s3cret-token", &["spiffe://example.org/update=update-service"]).unwrap();
    let answer = tokens.authenticate(&HeaderMap::new(), Some(&peer(update.clone()))).await;
    assert_eq!(answer.unwrap_err().reason, Reason::CredentialsMissing);
    let both = tokens.with_certificates();
    assert_eq!(both.authenticate(&headers, Some(&peer(update.clone()))).await.unwrap().subject, "token:static");
    headers.insert(header::AUTHORIZATION, "Bearer wrong".parse().unwrap());
    assert_eq!(both.authenticate(&headers, Some(&peer(update))).await.unwrap_err().reason, Reason::CredentialsInvalid);
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
    for encrypted in [false, true] {
        let mut extensions = Extensions::new();
        extensions.insert(Peer::at(([127, 0, 0, 1], 7).into(), encrypted, Certificate::None));
        assert_eq!(check_transport(&extensions, false).is_ok(), encrypted);
    }
}
