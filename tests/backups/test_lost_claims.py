"""Claims that are lost: how many a job may lose, and that what all of them stored is gone on with."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.protocol import Progress
from backups.lost_claims import MOST_CLAIMS, MOST_IN_VAIN, Losses, after_loss, why_given_up
from backups.models import Backup, Job, Session
from backups.resuming import resumable_objects
from backups.states import JobState
from backups.sweeper import sweep
from backups.transitions import claim_job, renew_lease
from tests.agents.agent_worlds import enrolled
from tests.factories import make_backup, make_job, make_manifest, make_server, make_vault
from vaults.models import Domain, StoredObject

MIB = 1024 * 1024
SHORT, LONG = timedelta(hours=1), timedelta(hours=25)
KEY = 1500

# How far each lost claim came and how much it left for the next, how old the job is; with which loss it is given up.
CASES = {
    "never begins to read": ([(0, 0)] * 9, SHORT, 4),
    "stores its key alone each time": ([(0, KEY)] * 9, SHORT, 4),
    "dies of the same file each time": ([(500, 0)] * 9, SHORT, 5),
    "dies of it, once all before it is stored": ([(500, 9 * MIB), (500, MIB), *[(500, KEY)] * 9], SHORT, 6),
    "gets further each time": ([(number * 100, 0) for number in range(1, 60)], SHORT, MOST_CLAIMS),
    "stores something each time": ([(500, MIB)] * 60, SHORT, MOST_CLAIMS),
    "three in vain, then further, then in vain": ([(9, 0), *[(0, 0)] * 3, (10, 0), *[(1, 0)] * 9], SHORT, 9),
    "as far as before is no further": ([(300, 0), (200, 0), (300, 0), (299, 0), (300, 0)], SHORT, 5),
    "for longer than a day": ([(number * 100, MIB) for number in range(1, 9)], LONG, 4),
    "an old job that is lost a few times": ([(100, 0), (200, 0), (300, 0)], LONG, None),
    "once": ([(0, 0)], SHORT, None),
}


def given_up_with(losses: list[tuple[int, int]], age: timedelta) -> int | None:
    known = Losses(claims=0)
    for number, (done, kept) in enumerate(losses, start=1):
        before = Losses(number, known.in_vain, known.furthest_bytes)
        known = after_loss(before, done_bytes=done, kept_bytes=kept)
        if why_given_up(known, age=age):
            return number
    return None


@pytest.mark.parametrize("case", CASES)
def test_when_a_job_is_given_up(case: str) -> None:
    losses, age, expected = CASES[case]
    assert given_up_with(losses, age) == expected


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)), min_size=MOST_CLAIMS, max_size=MOST_CLAIMS))
def test_no_job_goes_on_for_ever_and_none_ends_before_the_fourth_loss(losses: list[tuple[int, int]]) -> None:
    assert MOST_IN_VAIN <= (given_up_with(losses, SHORT) or 0) <= MOST_CLAIMS


# --- with rows --------------------------------------------------------------------------------------------------------


def lose(job: Job, *, done_bytes: int, stored_bytes: int) -> None:
    """A claim that gets so far, and whose lease runs out; then the sweep looks."""
    claim = claim_job(job_id=job.pk, now=timezone.now())
    assert claim is not None
    progress = Progress("copying", done_bytes, 9 * MIB, stored_bytes)
    assert renew_lease(claim, progress=progress, now=timezone.now())
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    sweep(now=timezone.now())
    job.refresh_from_db()


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["of an agent", "to a node's storage"])
def test_a_job_goes_on_while_its_lost_claims_get_further(kind: str) -> None:
    """What a copy on a node's storage had written is thrown away: only how far it came counts."""
    is_agent = kind == "of an agent"
    server = enrolled().server if is_agent else make_server()
    job = make_job(server, backup=make_backup(server, status="pending"))
    if not is_agent:
        storage = server.disks.get().storage
        Backup.objects.filter(jobs=job).update(vault=None, storage=storage, type="file")

    for number in range(1, 6):
        lose(job, done_bytes=number * 100, stored_bytes=0)
        assert (job.state, job.fence, job.furthest_bytes) == (JobState.RUNNING, number, (number - 1) * 100)
    lose(job, done_bytes=100, stored_bytes=2 * MIB)
    lose(job, done_bytes=100, stored_bytes=2 * MIB)
    lose(job, done_bytes=100, stored_bytes=2 * MIB)
    assert job.lost_in_vain == (0 if is_agent else 2)
    lose(job, done_bytes=100, stored_bytes=0 if is_agent else 2 * MIB)
    for _ in range(3 if is_agent else 0):
        assert job.state == JobState.RUNNING
        lose(job, done_bytes=100, stored_bytes=KEY)

    assert (job.state, job.code) == (JobState.FAILED, "worker_lost")
    assert "4 times one after another" in job.message


@pytest.mark.django_db
def test_what_all_claims_stored_is_gone_on_with() -> None:
    """Were it only the newest few, a job that is lost often would never end: it would send the oldest packs anew."""
    estate = enrolled()
    vault = make_vault(estate.server.tenant)
    domain = Domain.objects.create(tenant=vault.tenant, vault=vault, wrapped_id_key=b"x", wrapped_map_key=b"x")
    estate.server.domain = domain
    estate.server.save()
    job = make_job(estate.server)
    packs = []
    for fence in range(1, 12):
        # Every other claim was lost before it stored anything.
        session = Session.objects.create(job=job, fence=fence, token_hash=f"{fence}")
        if fence % 2:
            pack = make_manifest(vault)
            StoredObject.objects.filter(pk=pack.pk).update(domain=domain, session_id=session.pk, kind="p")
            packs.append(pack.pk)
    last = Session.objects.create(job=job, fence=12, token_hash="last")

    found = resumable_objects(last, timezone.now())

    assert sorted(found.values_list("pk", flat=True)) == sorted(packs) and len(packs) == 6
