"""`es <action> </resource> -parameter value ... --format`: from words to what is to be asked. Sends nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backupsite.es_command.errors import FormatError, MissingResourceError, UsageError

METHODS = {
    "get": "GET",
    "create": "POST",
    "post": "POST",
    "set": "PUT",
    "put": "PUT",
    "delete": "DELETE",
    "login": "POST",
    "logout": "GET",
    "help": "OPTIONS",
}
FORMATS = ("json", "csv", "tabulate")
SWITCHES = ("insecure", "no-wait")
_WORDS = {"true": True, "false": False, "null": None}
# Without a resource of their own.
_ACCOUNTS = frozenset({"login", "logout"})

USAGE_TEXT = """es - the command line of Backupsite

Usage: es <action> </resource> [-parameter value ...] [--format]

  action      get, create, set, delete, login, logout, help
  resource    such as /vm, /vm/define/backup, /vm/<server>/backup/<name>, /node, /dc, /task/log
  parameters  -dc <name> -full -extended -disk_id 1 -note "before the upgrade" ...
              a value is text, true, false, null, json::<json> or file::<path>; said again it becomes a list
  format      --json (as it comes), --csv, --tabulate, --tabulate-<grid, pipe, rst, ...>
  switches    --no-wait    do not wait for a task
              --insecure   do not check who the server is
              -d           (first) show headers, too

  es login -username <name>   sign in; the password is asked for
  es help </resource>         what a resource takes
  es help completion          for ~/.bashrc:  eval "$(es help completion)"
  es --version                which release this is

Settings: ES_API_URL, ES_API_KEY, ES_CA_FILE, or the file ~/.config/es/es.toml with url, api_key and ca_file.
"""


@dataclass(frozen=True, slots=True)
class Call:
    """What was asked for. `output` is json, csv, or a format of tabulate."""

    action: str
    resource: str | None
    parameters: dict[str, Any] = field(repr=False)
    output: str = "json"
    debug: bool = False
    insecure: bool = False
    wait: bool = True
    # The text of what is shown is all that can be asked of it: no secrets.
    api_key: str | None = field(default=None, repr=False)

    @property
    def method(self) -> str:
        return METHODS[self.action]


def parse(words: Sequence[str]) -> Call:
    """Raises UsageError, MissingResourceError or FormatError."""
    rest = list(words)
    if any(_is_no_text(word) for word in rest):
        raise UsageError("A word is no UTF-8.")
    debug = bool(rest) and rest[0] in {"-d", "--debug"}
    if debug:
        rest = rest[1:]
    options = [word[2:] for word in rest if word.startswith("--") and len(word) > 2]
    rest = [word for word in rest if not (word.startswith("--") and len(word) > 2)]
    if not rest or rest[0] not in METHODS:
        raise UsageError(USAGE_TEXT)
    action, rest = rest[0], rest[1:]
    resource = rest.pop(0) if rest and (rest[0].startswith("/") or action == "help") else None
    if resource is None and action not in _ACCOUNTS:
        raise MissingResourceError("Say which resource, such as /vm. See: es --help")
    parameters = _parameters(rest)
    key = parameters.pop("api-key", None)
    return Call(
        action=action,
        resource=resource or f"/accounts/{action}",
        parameters=parameters,
        output=_format([option for option in options if option not in SWITCHES]),
        debug=debug,
        insecure="insecure" in options,
        wait="no-wait" not in options,
        api_key=None if key is None else str(key),
    )


def _is_no_text(word: str) -> bool:
    """Bytes that the terminal's encoding does not know come as halves of surrogate pairs."""
    return any("\ud800" <= sign <= "\udfff" for sign in word)


def _format(options: list[str]) -> str:
    if len(options) > 1:
        raise FormatError("Say one output format: " + ", ".join(f"--{option}" for option in options))
    chosen = options[0] if options else "json"
    if chosen not in FORMATS and not chosen.startswith("tabulate-"):
        raise FormatError(
            f"--{chosen} is no output format. There are --json, --csv, --tabulate and --tabulate-<style>."
        )
    return {"tabulate": "simple", "tabulate-csv": "csv"}.get(chosen, chosen.removeprefix("tabulate-"))


def _parameters(words: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    # The name that waits for its value.
    name: str | None = None
    for word in words:
        if word.startswith("-") and word[1:2].isalnum():
            _put(found, name, True)
            name = word[1:]
        elif name is None:
            raise UsageError(f"What does {word!r} belong to? Parameters are -name value.")
        else:
            _put(found, name, _value(name, word))
            name = None
    _put(found, name, True)
    return found


def _put(found: dict[str, Any], name: str | None, value: Any) -> None:
    """Said again it becomes a list."""
    if name is None:
        return
    if name not in found:
        found[name] = value
    elif isinstance(found[name], list):
        found[name].append(value)
    else:
        found[name] = [found[name], value]


def _value(name: str, word: str) -> Any:
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    if word.startswith("json::"):
        try:
            return json.loads(word.removeprefix("json::"))
        except (ValueError, RecursionError) as error:
            raise UsageError(f"-{name} is no JSON: {error}") from error
    if word.startswith("file::"):
        try:
            return Path(word.removeprefix("file::")).read_text("utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(f"-{name} cannot be read: {error}") from error
    return word
