"""What can go wrong at night: one clear line, and an exit code that a program can use."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backupsite.stack.weed import EmbeddedWeed
from engine.alone import commands
from engine.alone.cli import main
from engine.crypto import generate_tenant_key
from engine.recovery import RecoveryKey
from tests.alone.support import RECOVERY_KEY, BotoSink, Server
from tests.engine.support import noise

pytestmark = pytest.mark.stack

OTHER_KEY = RecoveryKey(generate_tenant_key().private, RECOVERY_KEY.catalogue_fingerprint)
Case = dict[str, str]
# AWS variables, options and the text of the key file are what a case may change.
CASES: dict[str, tuple[Case, int, str]] = {
    "wrong key": ({"key": OTHER_KEY.encode()}, 5, "none of the 1 key envelopes of t/acme/d/web01 was made for this"),
    "mistyped key": ({"key": RECOVERY_KEY.encode().replace("\n", "\n#", 1)}, 5, "100 characters in all"),
    "empty bucket": ({"--bucket": "empty"}, 4, "there is no backup here"),
    "other tenant": ({"--tenant": "nobody"}, 4, "there is no backup here"),
    "impossible tenant": ({"--tenant": "../x"}, 2, "characters that are not allowed"),
    "no bucket": ({"--bucket": "nowhere"}, 6, "there is no such bucket"),
    "unnamed bucket": ({"--bucket": ""}, 2, "name the bucket"),
    "wrong secret": ({"AWS_SECRET_ACCESS_KEY": "wrong"}, 6, "SignatureDoesNotMatch: check the credentials"),
    "unknown access key": ({"AWS_ACCESS_KEY_ID": "unknown"}, 6, "InvalidAccessKeyId: check the credentials"),
    "no credentials": ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, 6, "no S3 credentials were found"),
    "nobody listens": ({"--endpoint-url": "http://127.0.0.1:9"}, 6, "check endpoint and network"),
    "no address": ({"--endpoint-url": "not an address"}, 2, "S3 client cannot be set up"),
    "no profile": ({"--profile": "nowhere"}, 2, "S3 client cannot be set up"),
    "no options file": ({"--options": "/nowhere/options"}, 2, "/nowhere/options cannot be read"),
    "no key file": ({"--recovery-key-file": "/nowhere/key"}, 2, "/nowhere/key cannot be read"),
}


@pytest.fixture
def words(
    weed: EmbeddedWeed,
    sink: BotoSink,
    key_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Case], list[str]]:
    """The options of a run in which one thing is wrong."""
    credential = weed.credentials["reader"]
    server = Server(sink, sink)
    server.back_up(noise(5000))
    server.describe()

    def make(case: Case) -> list[str]:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        variables = {"AWS_ACCESS_KEY_ID": credential.access_key, "AWS_SECRET_ACCESS_KEY": credential.secret_key}
        for name, value in (variables | case).items():
            if name.startswith("AWS_"):
                monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        if "key" in case:
            key_file.write_text(case["key"])
        if case.get("--bucket") == "empty":
            sink.client.create_bucket(Bucket=f"{sink.bucket}-empty")
            case = {"--bucket": f"{sink.bucket}-empty"}
        options = {"--bucket": sink.bucket, "--endpoint-url": weed.url, "--recovery-key-file": str(key_file)}
        options |= {name: value for name, value in case.items() if name.startswith("--")}
        return [word for option in options.items() for word in option]

    return make


@pytest.mark.parametrize("name", CASES)
def test_what_goes_wrong_is_said_in_one_line(
    name: str,
    words: Callable[[Case], list[str]],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case, exit_code, message = CASES[name]
    monkeypatch.setattr(time, "sleep", lambda _: None)  # of the client's retries

    found = main(["list", *words(case)])

    out, err = capfd.readouterr()
    assert found == exit_code, err
    assert message in err
    assert len(err.splitlines()) == 1
    assert out == ""


def test_an_internal_error_shows_no_traceback_unless_asked_for(
    words: Callable[[Case], list[str]], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "list_domain", lambda *_: {}["nowhere"])

    assert main(["list", *words({})]) == 70
    with pytest.raises(KeyError):
        main(["--debug", "list", *words({})])

    out, err = capfd.readouterr()
    assert "KeyError" in err and "--debug" in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("backup", "exit_code", "message"),
    [
        ("00000000", 4, "none of the 1 backups here is named 00000000"),
        ("0000", 4, "at least 6 hexadecimal digits"),
        ("../../x", 4, "at least 6 hexadecimal digits"),
    ],
)
def test_an_unknown_backup_is_said_so(
    backup: str,
    exit_code: int,
    message: str,
    words: Callable[[Case], list[str]],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    target = tmp_path / "image"

    assert main(["restore", backup, "--to", str(target), *words({})]) == exit_code

    assert message in capfd.readouterr().err
    assert not target.exists()
