"""The check of a password: one hash for whoever is asked for, known or not, so that the time tells nothing."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.db.models import Q
from django.http import HttpRequest

from tenants.models import Person


class PasswordBackend(ModelBackend):
    """By user name, or by an e-mail address that one person has. A disabled person is refused like a wrong password."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **rest: Any
    ) -> Person | None:
        if not username or password is None:
            return None
        person = person_called(username)
        if person is None:
            Person().set_password(password)
            return None
        is_right = person.check_password(password)
        return person if is_right and self.user_can_authenticate(person) else None


def person_called(name: str) -> Person | None:
    """A user name goes before the same text as somebody's e-mail address; an address of several persons is nobody's."""
    if "\0" in name:
        return None
    found = list(Person.objects.filter(Q(username=name) | Q(email__iexact=name))[:3])
    named = [person for person in found if person.username == name]
    return named[0] if named else found[0] if len(found) == 1 else None
