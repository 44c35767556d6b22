"""`backupsite-restore`: list, restore and check backups with nothing but a bucket and a recovery key.

exit code   meaning
0           done, and everything is complete
1           something else went wrong (the message says what)
2           the command line or a file of options is wrong
3           damage: not everything could be restored, or is there
4           there is no backup, or none of this name, or no facts in it
5           the recovery key or a challenge is wrong
6           the store refused or did not answer
130         interrupted
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from engine.alone import commands
from engine.alone.finding import NothingFoundError
from engine.alone.inputs import OptionsError, UnsafeFileError
from engine.alone.restoring import NotConfirmedError
from engine.errors import (
    CanceledError,
    DamagedError,
    EngineError,
    FormatError,
    IntegrityError,
    KeyMismatchError,
    StoreError,
)
from engine.recovery import ChallengeError, RecoveryKeyError

EXIT_FAILED = 1
EXIT_INTERNAL = 70

# The first class that fits decides.
_EXIT_CODES: tuple[tuple[type[EngineError], int], ...] = (
    (OptionsError, 2),
    (UnsafeFileError, 2),
    (NotConfirmedError, 2),
    (DamagedError, 3),
    (NothingFoundError, 4),
    (RecoveryKeyError, 5),
    (ChallengeError, 5),
    (KeyMismatchError, 5),
    (StoreError, 6),
    (IntegrityError, 3),
    (FormatError, 3),
    (CanceledError, 130),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Nobody at night should have to read a traceback."""
    options = build_parser().parse_args(argv)
    try:
        exit_code: int = options.run(options)
    except EngineError as error:
        sys.stderr.write(f"backupsite-restore: {error}\n")
        return exit_code_of(error)
    except KeyboardInterrupt:
        sys.stderr.write("backupsite-restore: interrupted\n")
        return 130
    except BrokenPipeError:
        # Nobody reads on, and Python would complain about it once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:
        if options.debug:
            raise
        sys.stderr.write(f"backupsite-restore: internal error ({type(error).__name__}); --debug shows where\n")
        return EXIT_INTERNAL
    return exit_code


def exit_code_of(error: EngineError) -> int:
    if error.code in {"bad_options", "bad_option"}:
        return 2
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), EXIT_FAILED)


class _StrictParser(argparse.ArgumentParser):
    """Takes no shortened options: `--recovery-key` must not pass for the option that names a file."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values, allow_abbrev=False)


def build_parser() -> argparse.ArgumentParser:
    parser = _StrictParser(
        prog="backupsite-restore",
        description="List, restore and check backups with nothing but the bucket and the recovery key.",
        epilog="Credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), a profile or the "
        "options file, the recovery key from a prompt or a private file; never from the command line.",
    )
    parser.add_argument("--debug", action="store_true", help="show where an internal error happened")
    commands_of = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_StrictParser)
    _add_list(commands_of)
    _add_facts(commands_of)
    _add_restore(commands_of)
    _add_check(commands_of)
    _add_keygen(commands_of)
    _add_answer(commands_of)
    return parser


def _add_list(commands_of: argparse._SubParsersAction[_StrictParser]) -> None:
    parser = commands_of.add_parser("list", help="servers, disks and backups in the bucket")
    _add_bucket_options(parser)
    parser.set_defaults(run=commands.run_list)


def _add_facts(commands_of: argparse._SubParsersAction[_StrictParser]) -> None:
    parser = commands_of.add_parser("facts", help="what a backup knows of its server: disk layout, boot, packages")
    parser.add_argument("backup", help="the backup's name in the list, or the first digits of it")
    parser.add_argument("--part", metavar="NAME", help="only this part and nothing else, such as partition_tables/sda")
    _add_bucket_options(parser)
    parser.set_defaults(run=commands.run_facts)


def _add_restore(commands_of: argparse._SubParsersAction[_StrictParser]) -> None:
    parser = commands_of.add_parser("restore", help="write one backup to where you want it")
    parser.add_argument("backup", help="the backup's name in the list, or the first digits of it")
    parser.add_argument("--to", required=True, metavar="FILE|DEVICE|DIRECTORY|-", help="- is standard output")
    parser.add_argument("--force", action="store_true", help="overwrite what the target holds")
    parser.add_argument("--yes", action="store_true", help="do not ask for the target's name to be typed")
    parser.add_argument("--resume", action="store_true", help="write only what differs on the target")
    parser.add_argument(
        "--trust-mtime", action="store_true", help="with --resume of a file tree: same size and time is the same file"
    )
    parser.add_argument(
        "--delete-extra",
        action="store_true",
        help="with --resume of a file tree: remove what the backup does not have, but not what was excluded when it "
        "was made, nor in directories that it could not read or left out, nor on other mounts than that of the target",
    )
    parser.add_argument("--fill-damaged", action="store_true", help="with --to -: zeros for what is damaged")
    parser.add_argument("--path", action="append", default=[], metavar="PATH", help="of a file tree: only this")
    _add_bucket_options(parser)
    parser.set_defaults(run=commands.run_restore)


def _add_check(commands_of: argparse._SubParsersAction[_StrictParser]) -> None:
    parser = commands_of.add_parser("check", help="is everything there that the backups need?")
    parser.add_argument("--read-data", action="store_true", help="read every object and compare its SHA-256")
    _add_bucket_options(parser)
    parser.set_defaults(run=commands.run_check)


def _add_keygen(commands_of: argparse._SubParsersAction[_StrictParser]) -> None:
    parser = commands_of.add_parser("keygen", help="make a recovery key on this machine")
    parser.add_argument(
        "--catalogue", required=True, metavar="FINGERPRINT", help="the catalogue key's fingerprint, from the portal"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=commands.run_keygen)


def _add_answer(commands_of: argparse._SubParsersAction[_StrictParser]) -> None:
    parser = commands_of.add_parser("answer", help="answer the service's test of the recovery key")
    parser.add_argument("challenge", help="the challenge, as the portal shows it")
    _add_key_option(parser)
    parser.set_defaults(run=commands.run_answer)


def _add_bucket_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bucket", metavar="NAME")
    parser.add_argument("--endpoint-url", metavar="URL", help="of an S3 service other than AWS")
    parser.add_argument("--region", metavar="NAME")
    parser.add_argument("--profile", metavar="NAME", help="of the AWS configuration files")
    parser.add_argument("--options", metavar="FILE", help="TOML file with the above, access_key and secret_key")
    parser.add_argument("--tenant", metavar="ID", help="look at this tenant only")
    parser.add_argument("--domain", metavar="ID", help="look at this server only")
    parser.add_argument("--json", action="store_true", help="for programs")
    _add_key_option(parser)


def _add_key_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recovery-key-file", metavar="FILE", help="mode 600; - is standard input; otherwise it is asked for"
    )


if __name__ == "__main__":
    sys.exit(main())
