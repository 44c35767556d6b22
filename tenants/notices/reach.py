"""Whether a person may be told of an event: only of what he can see at that moment. Asked when it happens and again
before it is sent, so that a right that was taken away counts at once."""

from __future__ import annotations

from django.apps import apps

from tenants.models import NoticeEvent, Person
from tenants.notices.events import Audience, kind_of
from tenants.roles import scoped_models


def may_know(person: Person, event: NoticeEvent) -> bool:
    """True for a SuperAdmin, for the person whom it is about, and for whoever sees its subject."""
    if not person.is_active:
        return False
    if person.is_superuser or (event.person_id is not None and event.person_id == person.pk):
        return True
    audience = kind_of(event.code).audience
    if audience is Audience.SUPER_ADMINS or event.tenant_id is None:
        return False
    if audience in (Audience.ADMINISTRATORS, Audience.PERSON):
        return person.administered_tenants().filter(pk=event.tenant_id).exists()
    return _sees_subject(person, event)


def _sees_subject(person: Person, event: NoticeEvent) -> bool:
    """A subject that is gone, or has no row in the table of roles, is its tenant's administrators' business."""
    model = apps.get_model(event.subject_model)
    if model._meta.model_name in scoped_models():
        seen = model._default_manager.for_user(person).filter(pk=event.subject_id)
        if seen.exists():
            return True
    return person.administered_tenants().filter(pk=event.tenant_id).exists()
