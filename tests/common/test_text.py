"""Signs that are not seen: refused in every text that people write, wherever it comes in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from django import forms
from django.apps import apps
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm, SetPasswordForm
from django.core.exceptions import ValidationError
from django.db import models
from hypothesis import given
from hypothesis import strategies as st
from rest_framework import serializers

from agents.services import rename_server
from backups.models import Backup
from common.errors import InvalidInputError
from common.forms import PlainForm
from common.models import IdentifiedModel
from common.text import PlainText
from tenants.serializers import BodySerializer
from tests.factories import make_definition, make_region, make_server
from tests.worlds import World

pytestmark = pytest.mark.case("IN-11")
ROOT = Path(__file__).resolve().parents[2]
APPS = ("tenants", "vaults", "agents", "definitions", "backups")
# As bytes in files they would be hidden here, too.
BAD = ["\x00", "\x1b[31m", "\x07", "\x7f", "\x85", "\x9b2J", "\u202e", "\u202a", "\u2066", "\u2069", "\u2028", "\u2029"]
GOOD = ["Zürich 2", "网站", "שרת-1", "server 👩‍💻", "a\u200fb", "o'Neil; --", "x" * 100]
# Signed in by Django's own forms, which have names and passwords only.
DJANGO = (AuthenticationForm, PasswordChangeForm, SetPasswordForm)


def refused(text: str, *, lines: bool = False) -> bool:
    try:
        PlainText(lines=lines)(text)
    except ValidationError as error:
        assert error.code == "control_sign" and "U+" in error.messages[0]
        return True
    return False


@pytest.mark.parametrize("sign", BAD, ids=ascii)
def test_what_is_not_seen_is_refused_wherever_it_stands(sign: str) -> None:
    assert all(refused(text, lines=lines) for text in (sign, f"a{sign}", f"{sign}b") for lines in (True, False))


@pytest.mark.parametrize("text", GOOD, ids=ascii)
def test_what_people_write_is_let_in(text: str) -> None:
    assert not refused(text)


def test_lines_are_for_notes_and_descriptions() -> None:
    assert refused("one\ntwo") and refused("one\ttwo") and refused("one\r\ntwo")
    assert not refused("one\r\ntwo\tthree", lines=True)


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=20), st.booleans())
def test_the_pattern_for_others_says_the_same(text: str, lines: bool) -> None:
    fits = re.fullmatch(PlainText(lines=lines).pattern.removesuffix("$"), text) is not None

    assert fits is not refused(text, lines=lines)


def _modules() -> Iterator[Any]:
    for app in APPS:
        for path in sorted((ROOT / app).rglob("*.py")):
            if not {"migrations", "drivers", "program"} & set(path.parts):
                yield import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def _classes(base: type) -> set[type]:
    found = {value for module in _modules() for value in vars(module).values() if isinstance(value, type)}
    return {value for value in found if issubclass(value, base) and value.__module__.split(".")[0] in APPS}


def test_every_form_of_ours_is_a_plain_one() -> None:
    assert [form for form in _classes(forms.BaseForm) if not issubclass(form, (PlainForm, *DJANGO))] == []


def test_every_text_of_every_body_has_the_rule_or_is_named_raw() -> None:
    bare = []
    raw = set()
    for body in _classes(BodySerializer):
        for name, field in body().fields.items():
            text = getattr(field, "child", field)
            if isinstance(text, serializers.CharField) and not field.read_only:
                if any(isinstance(found, PlainText) for found in text.validators):
                    continue
                (raw.add if name in body.raw_fields else bare.append)(f"{body.__name__}.{name}")

    assert bare == []
    assert raw == {"LoginSerializer.username", "LoginSerializer.password"}


def test_every_model_that_is_cleaned_has_it() -> None:
    named = [
        model
        for model in apps.get_models()
        if model.__module__.split(".")[0] in APPS
        and any(isinstance(field, models.CharField) and field.name in {"name", "title"} for field in model._meta.fields)
    ]

    assert len(named) > 8
    assert all(issubclass(model, IdentifiedModel) for model in named if model._meta.model_name != "region"), named


class SampleForm(PlainForm):
    name = forms.CharField()
    networks = forms.CharField(widget=forms.Textarea)
    password = forms.CharField(widget=forms.PasswordInput)


@pytest.mark.parametrize(
    ("field", "text", "good"),
    [
        ("name", "a\x1bb", False),
        ("name", "a\nb", False),
        ("networks", "a\nb", True),
        ("networks", "a\u202eb", False),
        ("password", "a\x07\u202eb", True),
    ],
)
def test_a_form_refuses_by_field(field: str, text: str, good: bool) -> None:
    form = SampleForm({"name": "a", "networks": "b", "password": "c", field: text})

    assert form.is_valid() is good
    assert set(form.errors) == (set() if good else {field})


@pytest.mark.django_db
def test_a_model_says_which_field_and_why() -> None:
    definition = make_definition(make_server())
    definition.description = "two\nlines"
    definition.full_clean()
    definition.description, definition.disk.path = "a\x1b[2J", "a\u202eb"

    for row, field in ((definition, "description"), (definition.disk, "path")):
        with pytest.raises(ValidationError) as caught:
            row.full_clean()
        assert "Take it out" in caught.value.message_dict[field][0]


BODIES = [
    ("post", "/api/v1/tenants/", {"title": "{bad}", "region": "RBX"}, "title"),
    ("patch", "/api/v1/tenants/{tenant}/", {"title": "{bad}"}, "title"),
    ("patch", "/api/v1/servers/{server}/", {"name": "{bad}"}, "name"),
    ("patch", "/api/v1/regions/RBX/", {"title": "{bad}"}, "title"),
    ("patch", "/api/v1/backups/{backup}/", {"note": "{bad}"}, "note"),
    ("patch", "/api/v1/definitions/{definition}/", {"description": "{bad}"}, "description"),
    ("post", "/api/v1/tokens/", {"label": "{bad}"}, "label"),
    ("post", "/api/v1/webhooks/", {"label": "{bad}", "url": "https://a.example/", "tenant": "{tenant}"}, "label"),
]


@pytest.mark.django_db
@pytest.mark.parametrize(("method", "path", "body", "field"), BODIES, ids=[f"{row[0]} {row[1]}" for row in BODIES])
def test_the_api_refuses_it_and_says_where(
    world: World, method: str, path: str, body: dict[str, str], field: str
) -> None:
    make_region("RBX")
    ours = world.ours
    ids = {name: str(getattr(ours, name).pk) for name in ("tenant", "server", "backup", "definition")}
    client = world.client("super")
    for sign in ("\x1b[2J", "\u202etxt.exe"):
        filled = {name: value.format(bad=f"a{sign}", **ids) for name, value in body.items()}

        answer = getattr(client, method)(path.format(**ids), filled, format="json")

        assert answer.status_code == 400, answer.content
        assert [item["field"] for item in answer.json()["errors"]] == [field], answer.content
        assert "U+" in answer.json()["errors"][0]["detail"]


@pytest.mark.django_db
def test_a_form_refuses_it_and_a_service_behind_it_too(world: World) -> None:
    address = f"/backups/{world.ours.backup.pk}/note/"
    answer = world.client("admin_a").post(address, {"note": "a\x1b[2J"}, format="multipart")
    assert "U+001B" in answer.content.decode()
    assert not Backup.objects.get(pk=world.ours.backup.pk).note
    world.client("admin_a").post(address, {"note": "a\nb"}, format="multipart")
    assert Backup.objects.get(pk=world.ours.backup.pk).note == "a\nb"
    person = world.people["super"]
    assert person is not None
    with pytest.raises(InvalidInputError, match=r"U\+202E"):
        rename_server(server=world.ours.server, name="a\u202eb", actor=person)
