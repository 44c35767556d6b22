"""The rules that a definition's backups are kept by: each by those that held when it was made.

A policy that is changed changes future backups only: what the rules were before is in `EarlierRules`. A person who
shortens the rules of a definition by hand means all of its backups, and may need a second person for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from zoneinfo import ZoneInfo

from definitions.models import Definition, EarlierRules
from definitions.retention import Candidate, Rules, Verdict, judge
from definitions.rule_fields import RULE_FIELDS


def verdicts_on(definition: Definition, candidates: Iterable[Candidate], *, now: datetime) -> list[Verdict]:
    """Of each candidate why it is kept, by the rules of its time; one query."""
    candidates, zone = list(candidates), ZoneInfo(definition.time_zone)
    earlier = [(row.until, row.rules) for row in definition.earlier_rules.order_by("until", "pk")]
    judged: dict[Rules, dict[Candidate, Verdict]] = {}

    def under(rules: Rules) -> dict[Candidate, Verdict]:
        if rules not in judged:
            verdicts = judge(candidates=candidates, rules=rules, now=now, zone=zone)
            judged[rules] = {verdict.candidate: verdict for verdict in verdicts}
        return judged[rules]

    return [
        under(next((rules for until, rules in earlier if candidate.created_at < until), definition.rules))[candidate]
        for candidate in candidates
    ]


def surplus_of(definition: Definition, candidates: Iterable[Candidate], *, now: datetime) -> list[Candidate]:
    """Those that nothing keeps."""
    return [verdict.candidate for verdict in verdicts_on(definition, candidates, now=now) if not verdict.kept]


def remember_rules(definitions: Iterable[Definition], *, until: datetime) -> None:
    """Write down the rules as the definitions have them, before they are changed for the future."""
    EarlierRules.objects.bulk_create(
        [
            EarlierRules(definition=one, until=until, **{name: getattr(one, name) for name in RULE_FIELDS})
            for one in definitions
        ],
        batch_size=500,
    )
