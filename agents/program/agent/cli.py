"""`backupsite-agent`: the agent of a protected server.

exit code   meaning
0           done
1           something else went wrong (no root, its state folder is full or read-only), or the doctor found something
2           the command line or agent.toml is wrong
3           this server is not enrolled
4           the control plane cannot be reached
5           the control plane refused, or its policy does
6           what answered is not the control plane that this agent belongs to
7           the backup or restore failed
8           another instance of the agent runs
70          a bug of the program; --debug shows where
75          start it again: another release, or other pinned keys, are in place (daemon)
130         interrupted
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

from agents.program.agent import commands
from agents.program.agent.errors import EXIT_CODES, EXIT_FAILED, EXIT_INTERNAL, EXIT_INTERRUPTED, AgentError
from agents.program.agent.limits import keep_no_core
from agents.program.agent.places import Places
from agents.program.agent.showing import say, say_json
from agents.program.agent.tls import trust_this_system
from agents.program.agent.version import VERSION, release_number

_NAME = "backupsite-agent"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. `--json` puts errors into JSON too."""
    options = build_parser().parse_args(argv)
    _settle_in()
    keep_no_core()
    try:
        exit_code: int = options.run(options)
    except AgentError as error:
        return _say_error(options, error)
    except KeyboardInterrupt:
        say(f"{_NAME}: interrupted", to=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Nobody reads on, and Python would complain about it once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except PermissionError as error:
        message = f"{error.filename or 'What it needs'} may not be read or written by you. Run it as root."
        return _say_error(options, AgentError(message, code="not_permitted"))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return _say_error(options, _no_room(options, error))
        if options.debug:
            raise
        return _say_error(options, _internal(error))
    return exit_code


def _say_error(options: argparse.Namespace, error: AgentError) -> int:
    if getattr(options, "json", False):
        say_json({"error": {"code": error.code, "message": error.message}})
    else:
        say(f"{_NAME}: {error.message}", to=sys.stderr)
    return error.exit_code


def _internal(error: Exception) -> AgentError:
    found = AgentError(f"internal error ({type(error).__name__}: {error}); --debug shows where", code="internal_error")
    found.exit_code = EXIT_INTERNAL
    return found


def _no_room(options: argparse.Namespace, error: OSError) -> AgentError:
    where = Places.of(options.home).state
    remedy = "mount it so that it can be written" if error.errno == errno.EROFS else "make room there"
    return AgentError(f"{error.strerror}. Nothing can be kept in {where}: {remedy}.", code="state_unwritable")


def _settle_in() -> None:
    """A frozen program was started with its own folder of libraries; programs that it starts are not to get them."""
    if getattr(sys, "frozen", False):
        trust_this_system(os.environ)
        before = os.environ.pop("LD_LIBRARY_PATH_ORIG", "")
        os.environ.pop("LD_LIBRARY_PATH", None)
        if before:
            os.environ["LD_LIBRARY_PATH"] = before


class _StrictParser(argparse.ArgumentParser):
    def __init__(self, **values: Any) -> None:
        super().__init__(**values, allow_abbrev=False)


def build_parser() -> argparse.ArgumentParser:
    parser = _StrictParser(
        prog=_NAME,
        description="The backup agent of this server.",
        epilog="exit codes:\n" + "\n".join(f"  {code:<5} {meaning}" for code, meaning in EXIT_CODES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{_NAME} {VERSION} release {release_number()}")
    parser.add_argument("--home", metavar="DIR", help="keep configuration and state below DIR (for trying it out)")
    parser.add_argument("--debug", action="store_true", help="show where an internal error happened")
    of = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_StrictParser)
    enrol = _command(of, "enrol", commands.run_enrol, "make this server known to a control plane")
    enrol.add_argument("token", metavar="TOKEN", help="the one-time token of the portal; - is standard input")
    enrol.add_argument(
        "--url",
        required=True,
        help="the control plane, as the portal shows it beside the token: https://gate.example.com",
    )
    _command(of, "daemon", commands.run_daemon_command, "work until it is told to end", has_json=False)
    _command(of, "status", commands.run_status, "how it stands: last backup, next work, trouble")
    run = _command(of, "run", commands.run_run, "back up this server now")
    run.add_argument("--no-wait", action="store_true", help="ask for it, and do not wait for its end")
    listing = _command(of, "list", commands.run_list, "the backups of this server")
    listing.add_argument("--limit", type=int, default=50, metavar="N", help="at most N, the newest (50)")
    restore = _command(of, "restore", commands.run_restore, "bring files back; a person confirms it in the portal")
    restore.add_argument(
        "backup", metavar="BACKUP", help="id or name, from `list`; or the whole id of another server's"
    )
    restore.add_argument("--to", required=True, metavar="DIRECTORY", help="where to, an absolute path; / is in place")
    restore.add_argument("--path", action="append", default=[], metavar="PATH", help="only this file or directory")
    restore.add_argument("--overwrite", action="store_true", help="replace files that are there and differ")
    logs = _command(of, "logs", commands.run_logs, "the agent's own log")
    logs.add_argument("-n", type=int, default=50, metavar="N", help="so many lines (50)")
    logs.add_argument("--follow", action="store_true", help="and those that come")
    _command(of, "doctor", commands.run_doctor, "look for what keeps it from backing up")
    _command(of, "rotate-key", commands.run_rotate, "another key for requests; the old one is worth nothing then")
    unenrol = _command(of, "unenrol", commands.run_unenrol, "leave the control plane; backups stay in the vault")
    unenrol.add_argument("--purge", action="store_true", help="wipe keys and state, also when nobody can be told")
    # Not for people: the process that moves data, started by the daemon.
    of.add_parser("move").set_defaults(run=commands.run_move)
    return parser


def _command(of: Any, name: str, run: Any, text: str, *, has_json: bool = True) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = of.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    if has_json:
        parser.add_argument("--json", action="store_true", help="for programs")
    return parser
