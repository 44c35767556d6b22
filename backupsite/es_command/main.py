"""The command `es`. Exit codes: 0 done, 1 refused or failed, 2 broken server, 3 no answer, 4 no sign-in, 5 interrupted,
8 and 9 no output, 11 wrong use, 12 no resource, 13 no such format."""

from __future__ import annotations

import getpass
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from backupsite.es_command.client import Answer, Client
from backupsite.es_command.completion import script
from backupsite.es_command.configuration import (
    Configuration,
    load,
    read_token,
    refuse_in_clear,
    remove_token,
    write_token,
)
from backupsite.es_command.errors import (
    INTERRUPTED,
    NO_LOGIN,
    NO_OUTPUT,
    EncodingError,
    EsError,
    OutputError,
    UsageError,
    exit_code_of,
)
from backupsite.es_command.grammar import USAGE_TEXT, Call, parse
from backupsite.es_command.output import check_format, plain, shown
from backupsite.es_command.waiting import Pause, is_pending, task_goes_on, wait_for


def main(arguments: Sequence[str] | None = None, *, pause: Pause = time.sleep) -> int:
    """The exit code. Answers go to standard output, everything else to standard error."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _done(words, pause=pause)
    except BrokenPipeError:
        # Who reads has enough, as in `es get /vm | head`. Nothing is left for the interpreter to write at its end.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_OUTPUT


def _done(words: Sequence[str], *, pause: Pause) -> int:
    if words[:1] in (["-h"], ["--help"], ["-?"]) or words == ["help"]:
        print(USAGE_TEXT)
        return 0
    if words == ["--version"]:
        print(f"es {_version()}")
        return 0
    try:
        call = parse(words)
        if call.action == "help" and not str(call.resource).startswith("/"):
            return _help(str(call.resource))
        check_format(call.output)
        return _run(call, load(os.environ), pause=pause)
    except EsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nInterrupted. What was asked may have been begun; see: es get /task", file=sys.stderr)
        return INTERRUPTED


def _version() -> str:
    try:
        return version("backupsite")
    except PackageNotFoundError:
        return "(of a checkout)"


def _help(topic: str) -> int:
    if topic == "completion":
        print(script())
        return 0
    raise UsageError(f"There is no help on {topic!r}. Say a resource, such as: es help /vm")


def _run(call: Call, configuration: Configuration, *, pause: Pause) -> int:
    if call.insecure:
        print("The server is not checked (--insecure).", file=sys.stderr)
    else:
        refuse_in_clear(configuration.url)
    secrets = {} if call.action == "login" else _secrets(call, configuration)
    client = Client(configuration, secrets=secrets, insecure=call.insecure)
    answer = client.ask(call.method, str(call.resource), _given(call))
    if call.action == "login":
        return _signed_in(answer, call, configuration)
    if call.action == "logout" and answer.status in {200, 401}:
        remove_token(configuration)
    if call.wait and is_pending(answer):
        answer = _waited(client, answer, pause=pause)
    if answer.status == 401 and call.action != "logout":
        print("You are not signed in, or no longer: es login -username <name>, or set ES_API_KEY.", file=sys.stderr)
    _print(answer, call, configuration)
    return exit_code_of(answer.status)


def _secrets(call: Call, configuration: Configuration) -> Mapping[str, str]:
    """A key that was named, else the token of the last sign-in."""
    key = call.api_key or configuration.api_key
    if key:
        if not (key.strip().isascii() and key.strip().isprintable()):
            raise UsageError("The API key is none: it begins with bks_ and has no blanks.")
        return {"ES-API-KEY": key.strip()}
    token = read_token(configuration)
    return {"Authorization": f"Token {token}"} if token else {}


def _given(call: Call) -> dict[str, object]:
    if call.method == "GET" and any(str(value).startswith("bks_") for value in call.parameters.values()):
        raise UsageError("A key in an address gets into logs. Say -api-key <key>, or set ES_API_KEY.")
    if call.action != "login":
        return call.parameters
    if call.parameters.get("password", True) is not True:
        # A file that an editor or `echo` has written ends with the end of a line, which is none of the password.
        return {**call.parameters, "password": str(call.parameters["password"]).rstrip("\r\n")}
    if not sys.stdin.isatty():
        raise EsError("Give the password: -password file::<path>")
    return {**call.parameters, "password": getpass.getpass()}


def _signed_in(answer: Answer, call: Call, configuration: Configuration) -> int:
    told = answer.text if isinstance(answer.text, dict) else {}
    if answer.status != 200 or not isinstance(told.get("token"), str):
        print(f"Not signed in: {plain(str(told.get('detail') or answer.status))}", file=sys.stderr)
        return NO_LOGIN
    try:
        write_token(configuration, told["token"])
    except OSError as error:
        print(f"Signed in, but the token cannot be kept: {error}", file=sys.stderr)
        return NO_LOGIN
    # It is kept, and needs to be in no scrollback.
    kept = {**told, "token": "(kept)"}
    _print(Answer(answer.method, answer.url, answer.status, kept, answer.headers), call, configuration)
    return 0


def _waited(client: Client, begun: Answer, *, pause: Pause) -> Answer:
    try:
        return wait_for(client, begun, pause=pause, screen=sys.stderr if sys.stderr.isatty() else None)
    except KeyboardInterrupt:
        raise Interrupted(f"Interrupted. {task_goes_on(begun.text['task_id'])}") from None


class Interrupted(EsError):
    """The person stopped waiting."""

    exit_code = INTERRUPTED


def _print(answer: Answer, call: Call, configuration: Configuration) -> None:
    text = shown(answer, call.output, csv_delimiter=configuration.csv_delimiter, debug=call.debug)
    # As CSV an empty list is no line: `wc -l` counts rows.
    end = "" if call.output == "csv" and not text else "\n"
    try:
        print(text, end=end)
        sys.stdout.flush()
    except UnicodeEncodeError as error:
        raise EncodingError(
            f"This terminal cannot show {error.object[error.start]!a}: set PYTHONIOENCODING=utf-8."
        ) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"The output cannot be written: {error}") from error
