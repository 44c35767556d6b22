"""Nothing secret reaches a log line, whatever a logger is given."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
from django.core.exceptions import PermissionDenied

from backupsite.logs import blot_text, logging_config


@pytest.fixture
def lines() -> Iterator[Callable[[], str]]:
    """Lines of a logger of its own that writes through the real formatter."""
    settings = dict(logging_config(level="INFO")["formatters"]["json"])
    formatter = settings.pop("()")(**settings)
    logger = logging.getLogger("tests.logs")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    logger.propagate = False
    yield stream.getvalue
    logger.removeHandler(handler)
    logger.propagate = True


def test_a_line_is_one_json_object(lines) -> None:
    logging.getLogger("tests.logs").warning("something happened", extra={"job": "17"})

    told = json.loads(lines())
    assert (told["event"], told["job"], told["level"]) == ("something happened", "17", "warning")


@pytest.mark.parametrize("name", ["secret_key", "password", "token", "authorization", "data_key", "map_key", "apikey"])
def test_a_sensitive_field_is_removed(lines, name: str) -> None:
    logging.getLogger("tests.logs").warning("something happened", extra={name: "hunter2"})

    assert "hunter2" not in lines()


def test_signed_urls_bearers_and_passwords_in_texts_are_removed(lines) -> None:
    url = "http://h/b?X-Amz-Credential=AKIA&X-Amz-Signature=abc123&x=1"
    logging.getLogger("tests.logs").warning("%s %s %s", url, "Authorization: Bearer bks_abc", "redis://u:pass@h/0")

    told = lines()
    assert not [secret for secret in ("AKIA", "abc123", "bks_abc", ":pass@") if secret in told]
    assert "x=1" in told


def test_a_traceback_is_cleaned_as_well(lines) -> None:
    try:
        raise RuntimeError("http://h/?X-Amz-Signature=abc123")
    except RuntimeError:
        logging.getLogger("tests.logs").exception("failed")

    assert "abc123" not in lines()


def test_a_refused_page_leaves_its_reason_and_no_traceback(lines) -> None:
    try:
        raise PermissionDenied("Only a SuperAdmin sees this.")
    except PermissionDenied as error:
        logging.getLogger("tests.logs").warning("Forbidden: %s", "/audit/", exc_info=error)

    told = json.loads(lines())
    assert (told["event"], told["reason"]) == ("Forbidden: /audit/", "Only a SuperAdmin sees this.")
    assert "Traceback" not in lines()


def test_ordinary_text_stays() -> None:
    assert blot_text("backup daily-20260101_220000 of web01") == "backup daily-20260101_220000 of web01"
