"""Ten simulated years of fifty schedules in five zones beside the oracle of the tests: every run, none left out.

`python -m tests.bench.schedule_oracle [zone ...]`
"""

from __future__ import annotations

import sys
import time

from tests.definitions.cron_oracle import expected
from tests.definitions.test_schedule_oracle import DAILY, FIRST, LAST, SPARSE, ZONES, found, minute_of, pieces


def main(zones: list[str]) -> int:
    """Prints a line per zone; 1 when anything was missed or double."""
    wrong = 0
    for zone in zones:
        begun, runs, missed, double = time.perf_counter(), 0, 0, 0
        for cron in [*SPARSE, *DAILY]:
            due = expected(cron, pieces(zone))
            made = found(cron, zone, minute_of(FIRST), minute_of(LAST))
            runs += len(due)
            missed += len(set(due) - set(made))
            double += len(made) - len(set(made)) + len(set(made) - set(due))
        wrong += missed + double
        print(
            f"{zone}: {runs:,} runs, {missed} missed, {double} double, {time.perf_counter() - begun:.0f} s", flush=True
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ZONES))
