//! Roles: which permissions go together, and who has them. Whoever has no role may do nothing.

use std::collections::BTreeMap;

use super::Permission;
use crate::grpc::tls::is_spiffe_id;

/// What somebody is to Holdfast. People who restore are `backup-admin`; the others are for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    BackupAdmin,
    BackupOperator,
    Scheduler,
    UpdateService,
    Monitoring,
}

/// Every role, its name, and what it may do.
const ROLES: [(Role, &str, &[Permission]); 5] = {
    use Permission::{
        AuditRead, BackupsCreate, BackupsDelete, BackupsDownload, BackupsRead, BackupsRestore, BackupsUpdate, BackupsUpload,
        BackupsVerify, LocksAcquire, LocksBreak, LocksRead, OperationsCancel, OperationsRead, SettingsEncrypt, SettingsRead,
        SettingsUpdate,
    };
    [
        (
            Role::BackupAdmin,
            "backup-admin",
            &[
                BackupsRead,
                BackupsCreate,
                BackupsUpdate,
                BackupsVerify,
                BackupsDownload,
                BackupsUpload,
                BackupsRestore,
                BackupsDelete,
                OperationsRead,
                OperationsCancel,
                SettingsRead,
                SettingsUpdate,
                SettingsEncrypt,
                AuditRead,
                LocksRead,
                LocksBreak,
            ],
        ),
        (
            Role::BackupOperator,
            "backup-operator",
            &[BackupsRead, BackupsCreate, OperationsRead, OperationsCancel, SettingsRead, LocksRead],
        ),
        (Role::Scheduler, "scheduler", &[BackupsCreate, OperationsRead]),
        (Role::UpdateService, "update-service", &[OperationsRead, LocksRead, LocksAcquire]),
        (Role::Monitoring, "monitoring", &[BackupsRead, OperationsRead, SettingsRead, LocksRead]),
    ]
};

impl Role {
    /// The role of this name.
    pub fn named(name: &str) -> Option<Self> {
        ROLES.iter().find(|(_, known, _)| *known == name).map(|(role, ..)| *role)
    }

    pub fn may(self, permission: Permission) -> bool {
        ROLES.iter().any(|(role, _, permissions)| *role == self && permissions.contains(&permission))
    }
}

/// Who has which role, by configuration.
#[derive(Debug, Clone, Default)]
pub struct Bindings(BTreeMap<String, Role>);

/// Why a binding is none.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("`{0}` is not SUBJECT=ROLE, for example user:alice=backup-admin")]
    Form(String),
    #[error("`{0}` is no role; the roles are {names}", names = ROLES.map(|(_, name, _)| name).join(", "))]
    Role(String),
    #[error(
        "`{0}` is no subject; subjects are user:NAME, serviceaccount:NAMESPACE:NAME, spiffe://DOMAIN/PATH, and token:NAME for \
         the callers with a token file"
    )]
    Subject(String),
    #[error("`{0}` has a role already; give each subject one")]
    Twice(String),
}

impl Bindings {
    /// From texts such as `user:alice=backup-admin`.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, Invalid> {
        let mut bindings = Self::default();
        for text in texts.into_iter().map(str::trim).filter(|text| !text.is_empty()) {
            // The name of a user may have anything in it.
            let (subject, role) = text.rsplit_once('=').ok_or_else(|| Invalid::Form(text.to_owned()))?;
            let (subject, role) = (subject.trim(), role.trim());
            let role = Role::named(role).ok_or_else(|| Invalid::Role(role.to_owned()))?;
            if !is_subject(subject) {
                return Err(Invalid::Subject(subject.to_owned()));
            }
            if bindings.0.insert(subject.to_owned(), role).is_some() {
                return Err(Invalid::Twice(subject.to_owned()));
            }
        }
        Ok(bindings)
    }

    pub fn of(&self, subject: &str) -> Option<Role> {
        self.0.get(subject).copied()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn is_subject(text: &str) -> bool {
    match text.split_once(':') {
        Some(("user" | "token", name)) => is_name(name),
        Some(("serviceaccount", account)) => {
            account.split_once(':').is_some_and(|(space, name)| is_name(space) && is_name(name) && !name.contains(':'))
        }
        Some(("spiffe", _)) => is_spiffe_id(text),
        _ => false,
    }
}

/// Whether a name can stand in a subject, and so in the audit log.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 256 && text.trim() == text && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_say_who_has_which_role() {
        let bindings = Bindings::parse([
            " user:alice=backup-admin",
            "serviceaccount:platform:holdfast-cron = scheduler",
            "spiffe://example.org/ns/platform/sa/update-service=update-service",
            "token:static=monitoring",
            "user:a=b=backup-operator",
            "",
        ])
        .unwrap();
        for (subject, role) in [
            ("user:alice", Some(Role::BackupAdmin)),
            ("user:a=b", Some(Role::BackupOperator)),
            ("serviceaccount:platform:holdfast-cron", Some(Role::Scheduler)),
            ("spiffe://example.org/ns/platform/sa/update-service", Some(Role::UpdateService)),
            ("token:static", Some(Role::Monitoring)),
            ("user:Alice", None),
            ("alice", None),
        ] {
            assert_eq!(bindings.of(subject), role, "{subject}");
        }
    }

    #[test]
    fn a_binding_that_means_nothing_is_refused_with_what_it_should_be() {
        for (texts, words) in [
            (&["user:alice"][..], "user:alice=backup-admin"),
            (&["user:alice=admin"], "backup-admin, backup-operator, scheduler, update-service, monitoring"),
            (&["user:alice=Backup-Admin"], "is no role"),
            (&["alice=backup-admin"], "user:NAME"),
            (&["user:=backup-admin"], "is no subject"),
            (&["system:timer=backup-admin"], "is no subject"),
            (&["serviceaccount:x=backup-admin"], "serviceaccount:NAMESPACE:NAME"),
            (&["serviceaccount:x:y:z=backup-admin"], "is no subject"),
            (&["spiffe://x=backup-admin"], "is no subject"),
            (&["user:alice=monitoring", "user:alice=backup-admin"], "has a role already"),
        ] {
            let message = Bindings::parse(texts.iter().copied()).unwrap_err().to_string();
            assert!(message.contains(words), "{texts:?}: {message}");
        }
    }

    #[test]
    fn roles_may_do_what_the_table_says() {
        let permissions = |role: Role| ROLES.iter().find(|(known, ..)| *known == role).unwrap().2;
        // Whoever restores does not take the lock for an update, and the other way round; everything else is the admin's.
        assert_eq!(permissions(Role::BackupAdmin).len(), 16);
        assert!(!Role::BackupAdmin.may(Permission::LocksAcquire) && Role::UpdateService.may(Permission::LocksAcquire));
        for (role, ..) in ROLES.iter().filter(|(role, ..)| *role != Role::BackupAdmin) {
            for secret in [
                Permission::BackupsDownload,
                Permission::BackupsRestore,
                Permission::BackupsUpload,
                Permission::BackupsDelete,
                Permission::BackupsUpdate,
                Permission::BackupsVerify,
                Permission::SettingsEncrypt,
                Permission::SettingsUpdate,
                Permission::AuditRead,
                Permission::LocksBreak,
            ] {
                assert!(!role.may(secret), "{role:?} {secret:?}");
            }
        }
    }
}
