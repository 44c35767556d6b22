"""What `bulk/` can do to backups, definitions and jobs: each verb is the one that the single object has, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.urls import reverse
from django.utils import timezone
from rest_framework import serializers

from backups.models import Backup, Job
from backups.services import cancel_job, remove_backups, request_backup, set_note
from backups.verifier import request_verification
from definitions.models import Definition
from definitions.services import delete_definition, update_definition
from tenants.api import BulkSerializer, Verb
from tenants.models import Person
from tenants.roles import Action


class BackupBulkSerializer(BulkSerializer):
    """`note` goes with the action `note`, and with no other."""

    action = serializers.ChoiceField(choices=["delete", "verify", "note"])
    note = serializers.CharField(required=False, allow_blank=True, max_length=255)

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        if (attributes["action"] == "note") != ("note" in attributes):
            raise serializers.ValidationError({"note": ["It goes with the action note."]}, code="invalid")
        return attributes


class DefinitionBulkSerializer(BulkSerializer):
    action = serializers.ChoiceField(choices=["pause", "resume", "delete", "backup-now"])


class JobBulkSerializer(BulkSerializer):
    action = serializers.ChoiceField(choices=["cancel"])


def _delete_backup(backup: Backup, order: Mapping[str, Any], person: Person) -> None:
    remove_backups(backups=[backup], actor=person, now=timezone.now())


def _verify(backup: Backup, order: Mapping[str, Any], person: Person) -> str:
    return _address(request_verification(backup=backup, actor=person, now=timezone.now()))


def _write_note(backup: Backup, order: Mapping[str, Any], person: Person) -> None:
    set_note(backup=backup, note=order["note"])


def _pause(definition: Definition, order: Mapping[str, Any], person: Person) -> None:
    update_definition(definition=definition, changes={"active": False}, now=timezone.now(), actor=person)


def _resume(definition: Definition, order: Mapping[str, Any], person: Person) -> None:
    update_definition(definition=definition, changes={"active": True}, now=timezone.now(), actor=person)


def _delete_definition(definition: Definition, order: Mapping[str, Any], person: Person) -> None:
    delete_definition(definition=definition, actor=person)


def _back_up_now(definition: Definition, order: Mapping[str, Any], person: Person) -> str:
    return _address(request_backup(definition=definition, actor=person, now=timezone.now()))


def _cancel(job: Job, order: Mapping[str, Any], person: Person) -> str:
    cancel_job(job=job, actor=person, now=timezone.now())
    return _address(job)


def _address(job: Job) -> str:
    return reverse("api:job-detail", args=[job.pk])


BACKUP_VERBS: Mapping[str, Verb] = {
    "delete": Verb(Action.DELETE, _delete_backup, status=204),
    "verify": Verb(Action.RUN, _verify, status=202),
    "note": Verb(Action.EDIT, _write_note),
}
DEFINITION_VERBS: Mapping[str, Verb] = {
    "pause": Verb(Action.EDIT, _pause),
    "resume": Verb(Action.EDIT, _resume),
    "delete": Verb(Action.DELETE, _delete_definition, status=204),
    "backup-now": Verb(Action.RUN, _back_up_now, status=202),
}
JOB_VERBS: Mapping[str, Verb] = {"cancel": Verb(Action.CANCEL, _cancel, status=202)}
