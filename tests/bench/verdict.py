"""The comparison as tables, and each ratio beside its aim."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

MIB = 1024 * 1024
Figures = dict[str, dict[str, dict[str, float]]]

FULL, REREAD, UNCHANGED = "full", "unchanged, read again", "unchanged, known"
KNOWN, KNOWN_REREAD, RESTORE = "1 % changed, known", "1 % changed, read again", "restore"


class Aim(NamedTuple):
    """How many times better than the peer we want to be at one figure of a job."""

    job: str
    figure: str
    peer: str
    times: float


AIMS = (
    *(Aim(FULL, figure, "restic", 3.0) for figure in ("wall_seconds", "cpu_seconds")),
    *(Aim(FULL, figure, "borg", 2.0) for figure in ("wall_seconds", "cpu_seconds")),
    *(Aim(KNOWN, "growth_bytes", peer, 5.0) for peer in ("restic", "borg")),
    *(Aim(KNOWN, "wall_seconds", peer, 10.0) for peer in ("restic", "borg")),
    Aim(RESTORE, "wall_seconds", "restic", 2.0),
)


class Ratio(NamedTuple):
    aim: Aim
    times: float

    @property
    def is_met(self) -> bool:
        return self.times >= self.aim.times


def ratios(figures: Figures) -> Iterator[Ratio]:
    """One per aim whose peer took part: how many times more the peer needed than we did."""
    for aim in AIMS:
        tools = figures.get(aim.job, {})
        if aim.peer in tools and "ours" in tools:
            yield Ratio(aim, tools[aim.peer][aim.figure] / max(tools["ours"][aim.figure], 1e-9))


def show(results: dict[str, Any]) -> None:
    versions = ", ".join(results["versions"].values())
    print(f"\n  {versions}; median of {results['rounds']} rounds, seed {results['seed']}")
    print(
        f"  image: {results['image_bytes'] / MIB:.0f} MiB, {results['allocated_bytes'] / MIB:.0f} MiB allocated, "
        f"{results['changed_pages']} pages changed"
    )
    for place, figures in results["places"].items():
        print(f"\n  {place}")
        for line in (*_table(figures), "", *_verdicts(figures)):
            print(f"  {line}")
    print()


def _table(figures: Figures) -> Iterator[str]:
    yield f"{'job':<24} {'tool':<11} {'wall s':>7} {'CPU s':>7} {'server CPU s':>13} {'growth MiB':>11} {'peak MiB':>9}"
    for job, tools in figures.items():
        for tool, row in tools.items():
            yield (
                f"{job:<24} {tool:<11} {row['wall_seconds']:>7.2f} {row['cpu_seconds']:>7.2f} "
                f"{row['server_cpu_seconds']:>13.2f} {row['growth_bytes'] / MIB:>11.2f} {row['peak_bytes'] / MIB:>9.0f}"
            )


def _verdicts(figures: Figures) -> Iterator[str]:
    for ratio in ratios(figures):
        aim = ratio.aim
        what = f"{aim.job}: {aim.figure.rpartition('_')[0].replace('_', ' ')} against {aim.peer}"
        yield f"{what:<50} {ratio.times:>7.1f}x  aim {aim.times:>4.0f}x  {'met' if ratio.is_met else 'MISSED'}"
