"""The commands: from parsed options to output and exit code."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from engine.alone import output
from engine.alone.bucket import Bucket
from engine.alone.checking import check_domain
from engine.alone.facts import read_facts
from engine.alone.finding import Scope, find_backup, open_domains
from engine.alone.inputs import OptionsError, read_options, read_recovery_key
from engine.alone.listing import list_domain
from engine.alone.restoring import STANDARD_OUTPUT, RestoreOrder, check_order, restore_backup
from engine.alone.s3 import S3Bucket
from engine.codec import check_name
from engine.crypto import tenant_key_from_private
from engine.errors import CanceledError, FormatError
from engine.recovery import RecoveryKey, answer_challenge, decode_challenge

EXIT_COMPLETE = 0
EXIT_DAMAGED = 3


def run_list(options: argparse.Namespace) -> int:
    bucket, recovery_key = _bucket(options), _recovery_key(options)
    opened = open_domains(bucket, recovery_key, _scope(options))
    listings = [list_domain(bucket, domain) for domain in opened.domains]
    if options.json:
        output.write_json(sys.stdout, output.listing_json(opened, listings))
    else:
        _write_lines(output.listing_lines(opened, listings))
    return EXIT_DAMAGED if opened.findings else EXIT_COMPLETE


def run_check(options: argparse.Namespace) -> int:
    bucket, recovery_key = _bucket(options), _recovery_key(options)
    opened = open_domains(bucket, recovery_key, _scope(options))
    line = output.ProgressLine(sys.stderr, clock=time.monotonic)
    results = [
        (domain, check_domain(bucket, domain, read_data=options.read_data, tell=line.checked))
        for domain in opened.domains
    ]
    line.end()
    if options.json:
        output.write_json(sys.stdout, output.check_json(results, opened))
    else:
        _write_lines(output.check_lines(results, opened))
    is_sound = all(result.is_sound for _, result in results) and not opened.findings
    return EXIT_COMPLETE if is_sound else EXIT_DAMAGED


def run_facts(options: argparse.Namespace) -> int:
    bucket, recovery_key = _bucket(options), _recovery_key(options)
    facts = read_facts(bucket, *find_backup(bucket, recovery_key, _scope(options), options.backup))
    parts = facts.parts if options.part is None else {options.part: facts.part(options.part)}
    if options.json:
        output.write_json(sys.stdout, {"backup": facts.backup, "facts": dict(parts)})
    elif options.part is not None:
        _write_lines(output.part_lines(parts[options.part]))
    else:
        _write_lines(output.facts_lines(facts))
    return EXIT_COMPLETE


def run_restore(options: argparse.Namespace) -> int:
    order = RestoreOrder(
        to=options.to,
        force=options.force,
        resume=options.resume,
        fill_damaged=options.fill_damaged,
        paths=tuple(options.path),
        trust_mtime=options.trust_mtime,
        delete_extra=options.delete_extra,
    )
    check_order(order, confirm=(lambda _: True) if options.yes else _confirm)
    bucket, recovery_key = _bucket(options), _recovery_key(options)
    domain, found = find_backup(bucket, recovery_key, _scope(options), options.backup)
    line = output.ProgressLine(sys.stderr, clock=time.monotonic)
    try:
        with canceled_by_signals() as cancel:
            outcome = restore_backup(bucket, domain, found, order, progress=line.restored, cancel=cancel)
    except CanceledError as error:
        raise CanceledError("interrupted; with --resume --force the restore of a disk goes on from here") from error
    finally:
        line.end()
    # With the image on standard output, what is said about it goes beside it.
    stream = sys.stderr if options.to == STANDARD_OUTPUT else sys.stdout
    if options.json:
        output.write_json(stream, output.outcome_json(outcome, options.to))
    else:
        stream.writelines(f"{text}\n" for text in output.outcome_lines(outcome, options.to))
    return EXIT_COMPLETE if outcome.is_complete else EXIT_DAMAGED


def run_keygen(options: argparse.Namespace) -> int:
    digits = re.sub(r"[\s:-]", "", options.catalogue).lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits, re.ASCII):
        raise OptionsError("the catalogue key's fingerprint has 64 hexadecimal digits: copy it from the portal")
    key = RecoveryKey.generate(catalogue_fingerprint=bytes.fromhex(digits), random_bytes=os.urandom)
    public_key = tenant_key_from_private(key.tenant_private_key).public.hex()
    if options.json:
        output.write_json(sys.stdout, {"public_key": public_key, "recovery_key": key.encode().splitlines()})
        return EXIT_COMPLETE
    _write_lines(
        [
            f"# Public key, to register at the portal: {public_key}",
            "#",
            "# Recovery key: print these lines, keep them apart from the servers, and let nobody photograph them.",
            "# Whoever has them can read every backup; without them nobody can.",
            *key.encode().splitlines(),
        ]
    )
    return EXIT_COMPLETE


def run_answer(options: argparse.Namespace) -> int:
    challenge = decode_challenge(options.challenge)
    _write_lines([answer_challenge(_recovery_key(options), challenge)])
    return EXIT_COMPLETE


def _bucket(options: argparse.Namespace) -> Bucket:
    names = ("bucket", "endpoint_url", "region", "profile")
    return S3Bucket(read_options(options.options, {name: getattr(options, name) for name in names}))


def _recovery_key(options: argparse.Namespace) -> RecoveryKey:
    return read_recovery_key(options.recovery_key_file, tell=_tell)


def _scope(options: argparse.Namespace) -> Scope:
    try:
        names = [None if name is None else check_name(name) for name in (options.tenant, options.domain)]
    except FormatError as error:
        raise OptionsError(f"--tenant and --domain are names from the list: {error}") from error
    return Scope(tenant=names[0], domain=names[1])


def _confirm(name: str) -> bool:
    if not sys.stdin.isatty():
        raise OptionsError("there is nobody to confirm the target: give --yes as well")
    _tell(f"Everything on {name} will be overwritten. Type its name to go on:")
    return sys.stdin.readline().strip() == name


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _write_lines(lines: Any) -> None:
    sys.stdout.writelines(f"{text}\n" for text in lines)
    sys.stdout.flush()


@contextmanager
def canceled_by_signals() -> Iterator[Callable[[], bool]]:
    """The first signal ends the restore in an orderly way; what is written stays, and --resume goes on from there."""
    received: list[int] = []

    def receive(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
