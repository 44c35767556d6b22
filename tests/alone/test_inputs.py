"""Secrets come from prompts and private files only; targets are not overwritten by accident."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path

import pytest

from engine.alone.cli import build_parser, main
from engine.alone.commands import canceled_by_signals
from engine.alone.inputs import OptionsError, UnsafeFileError, read_options, read_recovery_key
from engine.alone.output import printable, size_text
from engine.alone.restoring import NotConfirmedError, RestoreOrder, check_order
from engine.errors import EngineError
from engine.recovery import RecoveryKey, RecoveryKeyError, encode_challenge, is_answer, make_challenge
from tests.alone.support import RECOVERY_KEY
from tests.engine.support import seeded_bytes

PAPER = RECOVERY_KEY.encode()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# --- the recovery key -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o777, 0o610])
def test_a_key_file_that_others_may_touch_is_refused(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)

    with pytest.raises(UnsafeFileError, match="chmod 600"):
        read_recovery_key(str(key_file))


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_key_file_is_read(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)

    assert read_recovery_key(str(key_file)) == RECOVERY_KEY


def test_the_key_comes_from_standard_input() -> None:
    assert read_recovery_key("-", stdin=io.StringIO(PAPER)) == RECOVERY_KEY


def test_without_a_terminal_nothing_is_asked() -> None:
    with pytest.raises(OptionsError, match="--recovery-key-file"):
        read_recovery_key(None, stdin=io.StringIO(PAPER))


def test_a_slip_is_asked_for_again_at_once() -> None:
    lines = PAPER.splitlines()
    typed = [lines[0], lines[1][:-1], lines[2], lines[1], *lines[2:]]
    prompts: list[str] = []
    told: list[str] = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return typed.pop(0)

    assert read_recovery_key(None, stdin=Terminal(), ask=ask, tell=told.append) == RECOVERY_KEY
    assert [prompt.split(" of ")[0][-1] for prompt in prompts] == list("12223456")
    assert len(told) == 2 and all("line 2" in text for text in told)
    assert not any(line in text for line in lines for text in told)


def test_the_whole_key_in_one_line_is_taken() -> None:
    assert read_recovery_key(None, stdin=Terminal(), ask=lambda _: PAPER.replace("\n", " ")) == RECOVERY_KEY


def test_an_empty_line_ends_the_asking() -> None:
    with pytest.raises(RecoveryKeyError):
        read_recovery_key(None, stdin=Terminal(), ask=lambda _: "")


@pytest.mark.parametrize("command", ["list", "check", "restore", "answer"])
def test_no_secret_can_be_given_on_the_command_line(command: str) -> None:
    words = {"restore": ["restore", "abcdef", "--to", "x"], "answer": ["answer", "x"]}.get(command, [command])
    for option in ("--recovery-key", "--secret-key", "--access-key", "--password"):
        with pytest.raises(SystemExit):
            build_parser().parse_args([*words, option, "value"])


# --- options ----------------------------------------------------------------------------------------------------------


def options_file(tmp_path: Path, text: str, mode: int = 0o600) -> str:
    path = tmp_path / "options.toml"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_the_command_line_wins_over_the_options_file(tmp_path: Path) -> None:
    path = options_file(tmp_path, 'bucket = "a"\nregion = "x"\naccess_key = "k"\nsecret_key = "s"')

    options = read_options(path, {"bucket": "b", "region": None})

    assert (options.bucket, options.region, options.access_key, options.secret_key) == ("b", "x", "k", "s")
    assert "secret" not in repr(options) and "'s'" not in repr(options)


def test_an_options_file_with_a_secret_must_be_private(tmp_path: Path) -> None:
    path = options_file(tmp_path, 'bucket = "a"\naccess_key = "k"\nsecret_key = "s"', 0o644)

    with pytest.raises(UnsafeFileError):
        read_options(path, {})


def test_an_options_file_without_a_secret_may_be_public(tmp_path: Path) -> None:
    assert read_options(options_file(tmp_path, 'bucket = "a"', 0o644), {}).bucket == "a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bucket = 3",
        'bucket = "a"\ncolour = "red"',
        "bucket",
        'bucket = "a"\naccess_key = "k"',
        'bucket = "a"\nsecret_key = "s"',
        "\0",
        "x" * 70_000,
    ],
)
def test_a_wrong_options_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(OptionsError):
        read_options(options_file(tmp_path, text), {})


# --- targets ----------------------------------------------------------------------------------------------------------


def asked(order: RestoreOrder, *, answer: bool = True) -> list[str]:
    names: list[str] = []

    def confirm(name: str) -> bool:
        names.append(name)
        return answer

    check_order(order, confirm=confirm)
    return names


def test_a_new_or_empty_file_needs_no_confirmation(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()

    assert asked(RestoreOrder(to=str(tmp_path / "new"))) == []
    assert asked(RestoreOrder(to=str(empty))) == []


@pytest.mark.parametrize("resume", [False, True])
def test_a_file_with_content_needs_force_and_its_name(tmp_path: Path, resume: bool) -> None:
    target = tmp_path / "image"
    target.write_bytes(b"x")

    with pytest.raises(NotConfirmedError, match="--force"):
        asked(RestoreOrder(to=str(target), resume=resume))
    with pytest.raises(NotConfirmedError, match="nothing was written"):
        asked(RestoreOrder(to=str(target), force=True, resume=resume), answer=False)
    assert asked(RestoreOrder(to=str(target), force=True, resume=resume)) == [str(target)]


def test_a_device_needs_force_and_its_name() -> None:
    with pytest.raises(NotConfirmedError):
        asked(RestoreOrder(to="/dev/null"))
    assert asked(RestoreOrder(to="/dev/null", force=True)) == ["/dev/null"]


@pytest.mark.parametrize(
    "order",
    [
        RestoreOrder(to="-", resume=True),
        RestoreOrder(to="-", force=True),
    ],
)
def test_orders_that_make_no_sense_are_refused(order: RestoreOrder) -> None:
    with pytest.raises(EngineError) as caught:
        asked(order)

    assert caught.value.code == "bad_option"


def test_a_signal_ends_a_restore_in_an_orderly_way() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with canceled_by_signals() as cancel:
        assert not cancel()
        os.kill(os.getpid(), signal.SIGTERM)
        assert cancel()

    assert signal.getsignal(signal.SIGTERM) == before


# --- keys without a bucket --------------------------------------------------------------------------------------------


def test_keygen_prints_a_key_that_answers_challenges_to_its_public_half(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fingerprint = RECOVERY_KEY.catalogue_fingerprint.hex()
    spaced = " ".join(fingerprint[start : start + 8] for start in range(0, 64, 8)).upper()

    assert main(["keygen", "--catalogue", spaced]) == 0

    printed = capsys.readouterr().out
    key = RecoveryKey.decode(printed)
    public_key = bytes.fromhex(printed.splitlines()[0].rpartition(" ")[2])
    assert key.catalogue_fingerprint.hex() == fingerprint
    assert key.tenant_public_key == public_key
    path = tmp_path / "key"
    path.write_text(printed)
    path.chmod(0o600)
    challenge, digest = make_challenge(public_key, seeded_bytes("challenge"))
    assert main(["answer", encode_challenge(challenge), "--recovery-key-file", str(path)]) == 0
    assert is_answer(capsys.readouterr().out.strip(), digest)


def test_keygen_makes_another_key_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    keys = set()
    for _ in range(3):
        assert main(["keygen", "--json", "--catalogue", "ab" * 32]) == 0
        keys.add(tuple(json.loads(capsys.readouterr().out)["recovery_key"]))

    assert len(keys) == 3


@pytest.mark.parametrize("fingerprint", ["", "ab" * 31, "xy" * 32, "ab" * 33])
def test_keygen_refuses_what_is_no_fingerprint(fingerprint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", "--catalogue", fingerprint]) == 2
    assert "64 hexadecimal digits" in capsys.readouterr().err


@pytest.mark.parametrize("challenge", ["", "AAAA", "no base64 at all!", encode_challenge(bytes(65))])
def test_answer_refuses_what_is_no_challenge(
    challenge: str, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["answer", challenge, "--recovery-key-file", str(key_file)]) == 5
    assert "challenge" in capsys.readouterr().err


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_labels_cannot_drive_a_terminal() -> None:
    assert printable("web\x1b[2J01\r\n\u202e") == "web?[2J01???"
    assert printable("Größe 1") == "Größe 1"


def test_sizes_are_said_in_the_unit_that_fits() -> None:
    assert [size_text(size) for size in (0, 1023, 1024, 5 << 30, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "5.0 GiB",
        "3.0 TiB",
    ]
