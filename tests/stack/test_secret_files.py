from __future__ import annotations

import base64
from pathlib import Path

import pytest

from backupsite.stack.errors import StackError
from backupsite.stack.secret_files import S3_IDENTITIES, load_or_make, new_credential


def test_secrets_are_files_only_their_owner_reads(tmp_path: Path) -> None:
    load_or_make(tmp_path / "secrets")

    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert {entry.stat().st_mode & 0o777 for entry in (tmp_path / "secrets").iterdir()} == {0o600}


def test_secrets_stay_the_same_over_restarts(tmp_path: Path) -> None:
    first = load_or_make(tmp_path)

    assert load_or_make(tmp_path) == first


def test_every_secret_is_its_own(tmp_path: Path) -> None:
    made = load_or_make(tmp_path)

    values = [made.master_key, made.django_secret_key, *(made.s3[name].secret_key for name in S3_IDENTITIES)]
    assert len(set(values)) == len(values)
    assert len(base64.b64decode(made.master_key)) == 32


def test_a_lost_master_key_is_not_replaced(tmp_path: Path) -> None:
    load_or_make(tmp_path)
    (tmp_path / "master_key").unlink()

    with pytest.raises(StackError, match="master_key is missing; put it back"):
        load_or_make(tmp_path)

    assert not (tmp_path / "master_key").exists()


def test_an_installation_older_than_a_credential_gets_it(tmp_path: Path) -> None:
    before = load_or_make(tmp_path)
    for part in ("access", "secret"):
        (tmp_path / f"s3_copier_{part}_key").unlink()

    after = load_or_make(tmp_path)

    assert after.s3["copier"].secret_key not in ("", before.s3["copier"].secret_key)
    assert after.s3["keeper"] == before.s3["keeper"]
    assert load_or_make(tmp_path) == after


def test_an_empty_secret_is_refused(tmp_path: Path) -> None:
    load_or_make(tmp_path)
    (tmp_path / "django_secret_key").write_text("")

    with pytest.raises(StackError, match="is empty"):
        load_or_make(tmp_path)


def test_a_half_written_file_of_a_crash_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / ".master_key.new").write_text("hal")

    assert len(base64.b64decode(load_or_make(tmp_path).master_key)) == 32


def test_secrets_do_not_show_when_printed(tmp_path: Path) -> None:
    made = load_or_make(tmp_path)

    assert made.master_key not in repr(made)
    credential = new_credential()
    assert credential.secret_key not in repr(credential)
