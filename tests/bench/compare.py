"""`make bench-peers`: the engine beside restic and borg, on one image, in one run, job by job in turn.

Every round makes new repositories and runs each job with each tool before the next job, so that noise of the machine
hits all of them. What is told is the median of the rounds. The image lies in the page cache, everything written is on
disk before the next measurement begins, and every restored file is compared with the image.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from engine.scan import Extent
from tests.bench import images, verdict
from tests.bench.measured import Usage
from tests.bench.places import BucketPlace, LocalPlace, bucket_place
from tests.bench.tools import Borg, Ours, Restic, Tool, find_borg, version_of

RESULTS = Path("var/bench/peers.json")
SEED = 20260101
CHANGED_SHARE = 0.01


# (job, tool) -> the figures of each round
Measured: TypeAlias = dict[tuple[str, str], list[dict[str, float]]]


@dataclass(frozen=True, slots=True)
class Contest:
    """One place, the tools that take part there, and what was measured."""

    place: LocalPlace | BucketPlace
    tools: list[Tool]
    measured: Measured = field(default_factory=lambda: defaultdict(list))


def run(*, rounds: int = 3) -> dict[str, Any]:
    """Measure all and return the results; after each round they are written beside the data of the stack, too."""
    folder = Path(tempfile.mkdtemp(prefix="backupsite-bench-"))
    try:
        return _run_in(folder, rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_in(folder: Path, rounds: int) -> dict[str, Any]:
    borg = find_borg(RESULTS.parent / "borg")
    image = folder / "disk.img"
    _tell("making the image")
    images.make_image(image)
    # Before anything reads it: a page in the cache counts as data even where the file system has none.
    allocated = images.allocated_bytes(image)
    patch = images.random_patch(image, share=CHANGED_SHARE, seed=SEED)
    results: dict[str, Any] = {
        "versions": {"restic": version_of("restic"), "borg": version_of(borg)},
        "seed": SEED,
        "image_bytes": image.stat().st_size,
        "allocated_bytes": allocated,
        "changed_pages": len(patch.pages),
    }
    hash_after = _hash_after(image, patch)
    figures: dict[str, Measured] = {}
    for number in range(rounds):
        scratch = folder / f"round-{number}"
        scratch.mkdir()
        with ExitStack() as stack:
            for contest in _contests(stack, scratch, borg):
                _tell(f"round {number + 1} of {rounds}: {contest.place.name}")
                _Round(contest, image=image, patch=patch, hash_after=hash_after).run()
                for key, values in contest.measured.items():
                    figures.setdefault(contest.place.name, {}).setdefault(key, []).extend(values)
        shutil.rmtree(scratch)
        results |= {"rounds": number + 1, "places": {place: _medians(values) for place, values in figures.items()}}
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    return results


def _contests(stack: ExitStack, scratch: Path, borg: str) -> list[Contest]:
    local = LocalPlace(scratch / "local")
    bucket = stack.enter_context(bucket_place(scratch / "weed"))
    with_borg: list[Tool] = [
        Ours(place=local, scratch=scratch),
        Restic(place=local, scratch=scratch),
        Borg(place=local, scratch=scratch, program=borg),
        Borg(place=local, scratch=scratch, program=borg, fixed=True),
    ]
    on_s3: list[Tool] = [Ours(place=bucket, scratch=scratch), Restic(place=bucket, scratch=scratch)]
    return [Contest(local, with_borg), Contest(bucket, on_s3)]


class _Round:
    """All jobs of one contest. Numbers of backups: 0 full, 1 and 2 unchanged, then those of the changed image."""

    def __init__(self, contest: Contest, *, image: Path, patch: images.Patch, hash_after: str) -> None:
        self._contest = contest
        self._image = image
        self._patch = patch
        self._hash_after = hash_after

    def run(self) -> None:
        for tool in self._contest.tools:
            tool.prepare()
        self._back_up(verdict.FULL, base=None, changed=None)
        # Another time of change and the same content: every tool has to look at all of it.
        os.utime(self._image)
        self._back_up(verdict.REREAD, base=0, changed=None)
        self._back_up(verdict.UNCHANGED, base=1, changed=[])
        undo = self._patch.apply(self._image)
        try:
            self._back_up(verdict.KNOWN, base=2, changed=self._patch.extents)
            self._restore(verdict.RESTORE, backup=3)
            self._back_up(verdict.KNOWN_REREAD, base=2, changed=None, only="ours")
        finally:
            undo.apply(self._image)

    def _back_up(self, job: str, *, base: int | None, changed: Sequence[Extent] | None, only: str = "") -> None:
        for tool in self._contest.tools:
            if only in ("", tool.name):
                self._measure(job, tool, lambda: tool.back_up(self._image, base=base, changed=changed))  # noqa: B023  # called at once

    def _restore(self, job: str, *, backup: int) -> None:
        for tool in self._contest.tools:
            target = self._image.with_name("restored.img")
            self._measure(job, tool, lambda: tool.restore(target, backup=backup))  # noqa: B023  # called at once
            if images.sha256_of(target) != self._hash_after:
                raise RuntimeError(f"{tool.name} did not restore the image as it was")
            target.unlink()

    def _measure(self, job: str, tool: Tool, work: Any) -> None:
        place = self._contest.place
        gc.collect()
        os.sync()
        stored, server = place.stored_bytes(tool.name), place.server_cpu_seconds()
        usage: Usage = work()
        self._contest.measured[job, tool.name].append(
            {
                "wall_seconds": usage.wall_seconds,
                "cpu_seconds": usage.cpu_seconds,
                "both_cpu_seconds": usage.cpu_seconds + place.server_cpu_seconds() - server,
                "server_cpu_seconds": place.server_cpu_seconds() - server,
                "growth_bytes": place.stored_bytes(tool.name) - stored,
                "peak_bytes": usage.peak_bytes,
            }
        )


def _medians(figures: Measured) -> dict[str, dict[str, dict[str, float]]]:
    told: dict[str, dict[str, dict[str, float]]] = {}
    for (job, tool), values in figures.items():
        told.setdefault(job, {})[tool] = {name: statistics.median(row[name] for row in values) for name in values[0]}
    return told


def _hash_after(image: Path, patch: images.Patch) -> str:
    """The hash of the changed image, which every restore must have."""
    undo = patch.apply(image)
    try:
        return images.sha256_of(image)
    finally:
        undo.apply(image)


def _tell(text: str) -> None:
    print(f"  ...     {text}", flush=True)


def main() -> int:
    verdict.show(run(rounds=int(os.environ.get("BENCH_ROUNDS", "3"))))
    print(f"  written to {RESULTS}\n")
    return 0
