"""What is left out of file trees: the lines of a .gitignore file, checked one by one. No database."""

from __future__ import annotations

import re

from pathspec import GitIgnoreSpec

from common.errors import InvalidInputError

LONGEST_EXCLUDES = 100_000
MOST_LINES = 500
LONGEST_LINE = 1000
# With more a name can be made on which a comparison takes for ever, on a node that others share.
MOST_STARS = 3
MOST_ANY_FOLDERS = 2


def exclude_lines(text: str) -> list[str]:
    """The patterns, without empty lines and remarks."""
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def check_excludes(text: str) -> None:
    """InvalidInputError with the number of the line that is no pattern."""
    lines = text.splitlines()
    if len(lines) > MOST_LINES:
        raise _error(f"{MOST_LINES} lines are enough for anybody; these are {len(lines)}. Leave out whole folders.")
    for number, line in enumerate(lines, start=1):
        if reason := _why_not(line):
            raise _error(f"Line {number} ({line[:60]!r}): {reason}")


def _why_not(line: str) -> str:
    if len(line) > LONGEST_LINE:
        return f"it has more than {LONGEST_LINE} characters."
    if not line.replace("\t", " ").isprintable():
        return "it has characters that cannot be seen. Type it again."
    if line.strip() in {"/", "*", "**", "/*", "/**"}:
        return "it leaves out everything. To make no backups, pause the definition."
    folders = line.split("/")
    if folders.count("**") > MOST_ANY_FOLDERS or any(name.count("*") > MOST_STARS for name in folders):
        return f"at most {MOST_STARS} stars in a name and {MOST_ANY_FOLDERS} times **/ can be compared quickly."
    if exclude_lines(line) and not _is_pattern(line):
        return "it is no pattern as in a .gitignore file. To leave out a folder, write its path and a slash: cache/"
    return ""


def _is_pattern(line: str) -> bool:
    try:
        [pattern] = GitIgnoreSpec.from_lines([line]).patterns
    except (ValueError, re.error):
        return False
    return pattern.include is not None


def _error(message: str) -> InvalidInputError:
    return InvalidInputError(message, code="bad_excludes", field="excludes")
