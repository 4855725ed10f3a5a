//! Settings that callers change: schedule, retention, encryption. A change is written before it is answered.

use chrono::SecondsFormat;

use super::call::{Caller, EncryptionState, RetentionState, Run, ScheduleChange, ScheduleState};
use super::{Error, Holdfast, Result, blocking, now};
use crate::archive::{self, Protection, Trust, Writer};
use crate::fault;
use crate::model::backup::Trigger;
use crate::model::manifest::{FormatVersion, PassphraseNote};
use crate::model::notice::Severity;
use crate::model::schedule::{Driver, Recurrence};
use crate::model::settings::{Encryption, Recipient, Retention, Setting};
use crate::model::{BackupId, Event, Manifest, Notice, Opener, Passphrase, Schedule};

const SCHEDULE: &str = "schedule";
const RETENTION: &str = "retention";
const ENCRYPTION: &str = "encryption";

/// How long before its end a certificate is told of.
const EXPIRES_SOON: chrono::TimeDelta = chrono::TimeDelta::days(90);

impl Holdfast {
    pub async fn schedule(&self) -> Result<ScheduleState> {
        let (setting, _) = self.0.parts.state.setting(SCHEDULE).await?;
        self.schedule_state(setting).await
    }

    /// Changes the schedule. A past run is never made up for because of it.
    pub async fn set_schedule(
        &self,
        caller: &Caller,
        change: ScheduleChange,
        revision: Option<i64>,
        validate_only: bool,
    ) -> Result<ScheduleState> {
        let (mut setting, _): (Setting<Schedule>, _) = self.0.parts.state.setting(SCHEDULE).await?;
        let present = setting.value;
        let value = Schedule::new(
            change.enabled.unwrap_or(present.enabled),
            change.recurrence.unwrap_or(present.recurrence),
            change.time_zone.unwrap_or(present.time_zone),
            change.start_deadline.unwrap_or(present.start_deadline),
            now(),
        )?;
        if validate_only {
            setting.value = value;
            return self.schedule_state(setting).await;
        }
        let recurrence = match &value.recurrence {
            Recurrence::Daily { hours, minutes } => format!("daily {hours:02}:{minutes:02}"),
            Recurrence::Cron(fields) => fields.clone(),
        };
        let event = Event::new("schedule.changed", caller, "settings/schedule")
            .with("enabled", value.enabled)
            .with("recurrence", recurrence)
            .with("timeZone", value.time_zone)
            .with("startDeadline", humantime::format_duration(value.start_deadline));
        self.change(SCHEDULE, "the schedule", &value, None, revision, setting.revision, &event).await?;
        self.schedule().await
    }

    async fn schedule_state(&self, setting: Setting<Schedule>) -> Result<ScheduleState> {
        let state = &self.0.parts.state;
        let run = |slot: crate::postgres::state::Slot| Run {
            planned_time: slot.planned_time,
            state: slot.state,
            operation: slot.operation,
        };
        let timed = setting.value.enabled && self.0.parts.driver == Driver::Internal;
        let next_run = timed.then_some(setting.value.next_after(state.now().await?));
        Ok(ScheduleState {
            driver: self.0.parts.driver,
            next_run: next_run.flatten(),
            last_run: state.last_slot().await?.map(run),
            last_success: state.last_slot_success().await?,
            setting,
        })
    }

    pub async fn retention(&self) -> Result<RetentionState> {
        let (setting, _): (Setting<Retention>, _) = self.0.parts.state.setting(RETENTION).await?;
        let backups = self.0.parts.state.backups().await?;
        let counts = |stored: &&crate::postgres::state::Stored| stored.backup.counts();
        let current = u32::try_from(backups.iter().filter(counts).count()).unwrap_or(u32::MAX);
        // The next backup takes one place.
        let excess = current.saturating_add(1).saturating_sub(setting.value.max_count).min(current);
        Ok(RetentionState { setting, current, excess })
    }

    /// Changes how many backups are kept. Deletes nothing: the next successful backup does.
    pub async fn set_retention(&self, caller: &Caller, max_count: u32, revision: Option<i64>) -> Result<RetentionState> {
        if !Retention::RANGE.contains(&max_count) {
            let problem = format!("between {} and {} backups can be kept", Retention::RANGE.start(), Retention::RANGE.end());
            return Err(Error::InvalidField { field: "retention.max_count", problem });
        }
        let (present, _): (Setting<Retention>, _) = self.0.parts.state.setting(RETENTION).await?;
        let event = Event::new("retention.changed", caller, "settings/retention")
            .with("maxCount", max_count)
            .with("maxCountBefore", present.value.max_count);
        self.change(RETENTION, "retention", &Retention { max_count }, None, revision, present.revision, &event).await?;
        self.retention().await
    }

    pub async fn encryption(&self) -> Result<EncryptionState> {
        let (setting, _) = self.0.parts.state.setting(ENCRYPTION).await?;
        Ok(EncryptionState { setting, recipients: self.0.parts.recipients.iter().cloned().collect() })
    }

    /// Changes the passphrase for new backups. `None`: none opens them; they are not encrypted then, or, where there are
    /// recipients, to these only. Files made earlier keep theirs.
    pub async fn set_encryption(
        &self,
        caller: &Caller,
        passphrase: Option<Passphrase>,
        revision: Option<i64>,
    ) -> Result<EncryptionState> {
        let recipients = !self.0.parts.recipients.is_empty();
        let (present, sealed): (Setting<Encryption>, _) = self.0.parts.state.setting(ENCRYPTION).await?;
        let (value, secret) = match passphrase {
            None => (Encryption { passphrase: None, recipients, ..present.value }, None),
            Some(passphrase) => {
                passphrase.strength()?;
                let unchanged = match (present.value.passphrase, sealed) {
                    (Some(note), Some(sealed)) => self.unseal(&sealed, note).is_ok_and(|current| current == passphrase),
                    _ => false,
                };
                if unchanged {
                    return self.encryption().await;
                }
                let generation = present.value.last_generation + 1;
                let note = PassphraseNote { generation, set_time: now() };
                let sealed = self.0.parts.seal_key.seal(&passphrase, self.0.system.id, generation)?;
                if self.unseal(&sealed, note)? != passphrase {
                    return Err(Error::SealBroken);
                }
                let system = self.0.system.id;
                let protection = Protection { passphrase: Some(passphrase), ..self.to_recipients() };
                blocking(move || probe(protection, system, note)).await??;
                (Encryption { passphrase: Some(note), last_generation: generation, recipients }, Some(sealed))
            }
        };
        let event = match value.passphrase {
            None if recipients => {
                Event::new("encryption.changed", caller, "settings/encryption").with("recipients", self.fingerprints())
            }
            None => Event::new("encryption.disabled", caller, "settings/encryption"),
            Some(note) => {
                Event::new("encryption.changed", caller, "settings/encryption").with("passphraseGeneration", note.generation)
            }
        };
        self.change(ENCRYPTION, "encryption", &value, secret.as_deref(), revision, present.revision, &event).await?;
        tracing::info!(
            caller = caller.principal(),
            encrypted = value.passphrase.is_some() || recipients,
            "encryption of new backups changed"
        );
        self.encryption().await
    }

    /// How new backups are encrypted, and with what; both of the same moment.
    pub(super) async fn passphrase(&self) -> Result<(Encryption, Option<Passphrase>)> {
        let (setting, sealed): (Setting<Encryption>, _) = self.0.parts.state.setting(ENCRYPTION).await?;
        let passphrase = match (setting.value.passphrase, sealed) {
            (None, _) => None,
            (Some(note), Some(sealed)) => Some(self.unseal(&sealed, note)?),
            (Some(_), None) => return Err(Error::SealBroken),
        };
        Ok((setting.value, passphrase))
    }

    /// How new backups are encrypted, and which passphrase that is.
    ///
    /// # Errors
    /// `RecipientsMissing` rather than no encryption.
    pub(super) async fn protection(&self) -> Result<(Option<PassphraseNote>, Protection)> {
        let (encryption, passphrase) = self.passphrase().await?;
        let protection = Protection { passphrase, ..self.to_recipients() };
        if encryption.recipients && !protection.encrypts() {
            return Err(Error::RecipientsMissing);
        }
        Ok((encryption.passphrase, protection))
    }

    fn to_recipients(&self) -> Protection {
        Protection { recipients: self.0.parts.recipients.clone(), ..Protection::default() }
    }

    /// Remembers at the start that there are recipients, so that it is noticed when they are gone, and tells who they are.
    pub(super) async fn note_recipients(&self) -> Result<()> {
        let (setting, sealed): (Setting<Encryption>, _) = self.0.parts.state.setting(ENCRYPTION).await?;
        let recipients = &self.0.parts.recipients;
        for Recipient { fingerprint, user_id, expire_time } in recipients.iter() {
            let expire_time = expire_time.map(|time| time.to_rfc3339());
            tracing::info!(fingerprint, user_id, expire_time, "new backups are encrypted to this recipient as well");
        }
        for notice in self.notices_about_recipients() {
            tracing::warn!(recipient = notice.subject, "{}", notice.message);
        }
        match (recipients.is_empty(), setting.value.recipients) {
            (true, true) => tracing::warn!("new backups were encrypted to recipients, and none are configured any more"),
            (false, false) => {
                let value = Encryption { recipients: true, ..setting.value };
                let caller = Caller::internal("configuration");
                let event =
                    Event::new("encryption.changed", &caller, "settings/encryption").with("recipients", self.fingerprints());
                let noted =
                    self.change(ENCRYPTION, "encryption", &value, sealed.as_deref(), None, setting.revision, &event).await;
                // Another replica, or a caller, was faster.
                if !matches!(noted, Err(Error::EtagMismatch(_))) {
                    return noted;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn fingerprints(&self) -> String {
        self.0.parts.recipients.fingerprints().join(",")
    }

    /// What somebody should do about recipients.
    pub(super) fn notices_about_recipients(&self) -> Vec<Notice> {
        let soon = |recipient: &&Recipient| recipient.expire_time.is_some_and(|time| time < now() + EXPIRES_SOON);
        let notice = |recipient: &Recipient| {
            let time = recipient.expire_time.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true);
            let message = format!("The certificate {} of a recipient expires at {time}.", recipient.fingerprint);
            Notice::new(Severity::Warning, "RECIPIENT_EXPIRES", message).about(&recipient.fingerprint).instructions(
                "Extend it (gpg --quick-set-expire), export it again, and replace the file; from then on the service does not start with it.",
            )
        };
        self.0.parts.recipients.iter().filter(soon).map(notice).collect()
    }

    fn unseal(&self, sealed: &[u8], note: PassphraseNote) -> Result<Passphrase> {
        self.0.parts.seal_key.open(sealed, self.0.system.id, note.generation)
    }

    /// Writes a setting. A caller that names the revision it saw is told of changes by others; one that does not still
    /// never overwrites a change made while this one was being prepared.
    #[expect(clippy::too_many_arguments, reason = "each is one column of the row")]
    async fn change<T: serde::Serialize + Sync>(
        &self,
        name: &str,
        what: &'static str,
        value: &T,
        secret: Option<&[u8]>,
        seen: Option<i64>,
        present: i64,
        event: &Event,
    ) -> Result<()> {
        let unchanged = seen.is_none_or(|seen| seen == present);
        if unchanged && self.0.parts.state.set_setting(name, value, secret, &event.actor.principal, present, event).await? {
            Ok(())
        } else {
            Err(Error::EtagMismatch(what))
        }
    }
}

/// Encrypts and decrypts a small file, so that no backup is the first to find out that it does not work.
fn probe(protection: Protection, system_id: uuid::Uuid, note: PassphraseNote) -> Result<()> {
    fault::point("probing");
    let manifest = Manifest {
        format_version: FormatVersion::PRESENT,
        backup: BackupId::new(note.set_time, uuid::Uuid::nil()),
        uid: uuid::Uuid::nil(),
        trigger: Trigger::OnDemand,
        description: String::new(),
        create_time: note.set_time,
        snapshot_time: note.set_time,
        system_id,
        writer: "holdfast".into(),
        server_version: String::new(),
        passphrase: Some(note),
        recipients: protection.recipients.fingerprints(),
        audit: None,
        trace_id: None,
        resources: Vec::new(),
        tables: Vec::new(),
    };
    let written = Writer::new(Vec::new(), &protection, &manifest)?.finish(Vec::new())?;
    let opener = protection.passphrase.map(Opener::Passphrase);
    let read = archive::read::<Error>(written.out.as_slice(), opener.as_ref(), &Trust::default(), |_| Ok(()))?;
    if read.manifest == manifest && read.end == written.end { Ok(()) } else { Err(Error::ReadBack) }
}
