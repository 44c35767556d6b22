"""What an agent is told when it asks, what is kept of what it says, and how a copied machine is noticed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.conf import settings as django_settings
from django.utils import timezone
from time_machine import travel

from agents.agent_messages import AgentPolicy, HostFacts, PollAnswer, TreeFacts
from agents.answer_signing import is_policy_signed
from agents.models import Agent, Disk
from agents.principals import release_agent, revoke_agent
from backups.agent_policies import is_to_be_checked
from backups.dispatcher import dispatch_due
from backups.models import Job
from backups.services import cancel_job
from backups.states import JobState
from backups.sweeper import sweep
from common.errors import ConflictError, InvalidInputError
from definitions.models import Definition, Policy
from definitions.policies import assign, create_policy, update_policy
from definitions.services import update_definition
from tenants.models import AuditEvent
from tests.agents.agent_worlds import Estate, enrolled
from tests.factories import make_person

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.agents.both_urls")]


@pytest.fixture
def estate() -> Estate:
    return enrolled()


@pytest.fixture
def stopped_clock() -> Iterator[None]:
    """The turn in which an agent's policy is looked at again does not come meanwhile."""
    with travel(timezone.now(), tick=False):
        yield


def policy_in(answer: PollAnswer, agent: Agent) -> AgentPolicy:
    assert answer.policy is not None
    signed = {"policy": answer.policy.policy, "signature": answer.policy.signature}
    assert is_policy_signed(django_settings.CONFIG.control_public_key_bytes, agent_id=agent.pk, **signed)
    return msgspec.json.decode(answer.policy.policy, type=AgentPolicy)


@pytest.mark.usefixtures("stopped_clock")
def test_a_poll_costs_few_statements(estate: Estate, django_assert_max_num_queries: Any) -> None:
    estate.client.polled()

    # The agent, its nonce, its row, jobs; every five minutes also its definition, what holds it, and the ring.
    with django_assert_max_num_queries(4):
        estate.client.polled(policy_number=1)
    Agent.objects.update(policy_checked_at=None)
    with django_assert_max_num_queries(8):
        estate.client.polled(policy_number=1)


def test_file_systems_make_the_size_of_the_disk(estate: Estate) -> None:
    trees = [
        TreeFacts("/", "ext4", "/dev/vda1", 50 * 2**30, 2**30),
        TreeFacts("/data", "btrfs", "/dev/vdb", 200 * 2**30, 2**30, snapshot="btrfs"),
        TreeFacts("/mnt", "nfs", "nas:/x", 2**50, 2**40, left_out="a network file system" + "\n" + "x" * 999),
    ]

    estate.client.polled(trees=trees)
    estate.client.polled(trees=None)

    assert Disk.objects.get(server=estate.server).size_bytes == 250 * 2**30
    kept = Agent.objects.get().trees
    assert [tree["snapshot"] for tree in kept] == ["none", "btrfs", "none"]
    assert (kept[2]["left_out"][:23], len(kept[2]["left_out"])) == ("a network file system x", 300)


# --- the machine ------------------------------------------------------------------------------------------------------


@pytest.mark.case("AG-09")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": 7}, "its count went back from 7 to 7"),
        ({"count": 3}, "its count went back from 7 to 3"),
        ({"count": 8, "host": HostFacts("web01", "other", "b")}, "it is another machine"),
    ],
)
def test_a_copied_machine_is_stopped_with_the_other_until_a_person_decides(
    estate: Estate, changes: dict[str, Any], words: str
) -> None:
    job_id = Job.objects.get(pk=msgspec.json.decode(estate.client.ask("start/", _Empty()).content)["id"]).pk
    assert estate.client.claim(job_id).status_code == 200
    estate.client.polled(count=7)

    answer = estate.client.poll(**changes)

    assert (answer.status_code, answer.json()["code"]) == (403, "agent_quarantined")
    agent = Agent.objects.get()
    assert words in agent.quarantine_reason
    assert estate.client.poll(count=9).json()["code"] == "agent_quarantined"
    assert estate.client.claim(job_id).status_code == 403
    sweep(now=timezone.now())
    assert Job.objects.get().state == JobState.CANCELED
    assert AuditEvent.objects.filter(action="agent.quarantine").count() == 1

    person = make_person(superadmin=True)
    release_agent(agent=agent, actor=person)
    with pytest.raises(ConflictError):
        release_agent(agent=agent, actor=person)

    # It learns the machine anew, and the other one is noticed again.
    assert estate.client.poll(count=1).status_code == 200
    assert estate.client.poll(count=2, host=HostFacts("copy", "another", "b")).status_code == 403


@pytest.mark.case("AG-09", "AG-15")
def test_who_only_claims_with_a_stolen_key_is_noticed_too(estate: Estate) -> None:
    dispatch_due(now=estate.definition.next_run_at)
    job, now = Job.objects.get(), int(time.time())
    estate.client.polled(count=7, signed={"time_seconds": now})

    # One that was long on its way does nothing; one that knows the number, or guesses, wins and gives itself away.
    late = estate.client.claim(job.pk, count=6, time_seconds=now - 20)
    thief = estate.client.claim(job.pk, count=50)
    machine = estate.client.poll(count=8)

    assert (late.status_code, late.json()["code"]) == (409, "overtaken")
    assert thief.status_code == 200
    assert (machine.status_code, machine.json()["code"]) == (403, "agent_quarantined")
    sweep(now=timezone.now())
    job.refresh_from_db()
    assert (job.state, job.code) == (JobState.CANCELED, "agent_stopped")
    # One that says a number of before is stopped itself.
    Agent.objects.update(status=Agent.Status.ENROLLED)
    again = estate.client.claim(job.pk, count=8)
    assert (again.status_code, again.json()["code"]) == (403, "agent_quarantined")
    assert "went back from 50 to 8" in Agent.objects.get().quarantine_reason


def test_a_poll_that_was_overtaken_is_no_copy(estate: Estate) -> None:
    now = int(time.time())
    estate.client.polled(count=200, signed={"time_seconds": now})

    late = estate.client.poll(count=199, version="0.9", signed={"time_seconds": now - 20})

    assert late.status_code == 200
    assert (Agent.objects.get().poll_count, Agent.objects.get().version) == (200, "1.0")


# --- the policy -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("stopped_clock")
def test_the_policy_is_signed_for_this_agent_and_its_number_grows_with_each_change(estate: Estate) -> None:
    first = policy_in(estate.client.polled(), estate.agent)
    assert (first.number, first.window, first.is_paused) == (1, None, False)
    assert estate.client.polled(policy_number=1).policy is None

    person = make_person(superadmin=True)
    update_definition(
        definition=estate.definition,
        changes={"bandwidth_limit": 2**20, "excludes": "*.tmp"},
        actor=person,
        now=timezone.now(),
    )
    second = policy_in(estate.client.polled(policy_number=1), estate.agent)
    Definition.objects.update(active=False, next_run_at=None)
    assert estate.client.polled(policy_number=2).policy is None
    with travel(timezone.now() + timedelta(minutes=5)):
        third = policy_in(estate.client.polled(policy_number=2), estate.agent)

    assert (second.number, second.excludes) == (2, ["*.tmp"])
    assert [(row.begin_hour, row.end_hour, row.bytes_per_second) for row in second.bandwidth] == [(0, 24, 2**20)]
    assert (third.number, third.is_paused) == (3, True)


def test_agents_that_ask_together_are_not_all_looked_at_together() -> None:
    """Each five minutes; two hundred of them would make all the others wait."""
    begun = datetime(2026, 11, 1, 3, tzinfo=UTC)
    # Made in one moment, their ids differ by chance alone, at the end.
    chance = random.Random(1)
    ids = [UUID(int=0x01A2038907307000_8000000000000000 | chance.getrandbits(62)) for _ in range(200)]
    agents = [Agent(pk=one, policy_number=1, policy_checked_at=begun) for one in ids]
    turns: list[int] = []
    for minute in range(1, 11):
        now = begun + timedelta(minutes=minute)
        checked = [agent for agent in agents if is_to_be_checked(agent, now=now)]
        for agent in checked:
            agent.policy_checked_at = now
        turns.append(len(checked))

    assert sum(turns[:5]) == sum(turns[5:]) == 200
    assert max(turns) < 80 and min(turns) > 10
    # What was asked for, or was never made, waits for no turn.
    assert is_to_be_checked(Agent(policy_number=1), now=begun)
    assert is_to_be_checked(Agent(policy_number=0, policy_checked_at=begun), now=begun)


def test_what_a_policy_allows_and_a_restricted_one_never_does(estate: Estate) -> None:
    person, now = make_person(superadmin=True), timezone.now()
    limits = {"allows_hooks": True, "allows_excludes": True, "cpu_weight": 5, "allows_run_now": False}
    policy = create_policy(name="night", actor=person, restricted=True, agent_limits=limits)
    Definition.objects.all().delete()
    assign(policy=policy, server=estate.server, actor=person, now=now)

    told = policy_in(estate.client.polled(), estate.agent)
    assert (told.allows_hooks, told.allows_excludes, told.cpu_weight) == (False, False, 5)
    assert told.window is not None
    assert (told.window.begin, told.window.end, told.window.time_zone) == ("22:00", "06:00", "UTC")
    refused = estate.client.ask("start/", _Empty())
    assert (refused.status_code, refused.json()["code"]) == (403, "run_not_allowed")

    update_policy(policy=Policy.objects.get(), changes={"restricted": False}, actor=person, now=now)
    assert policy_in(estate.client.polled(policy_number=1), estate.agent).allows_hooks


@pytest.mark.parametrize(
    "limits",
    [
        {"cpu_weight": 0},
        {"run": "rm"},
        {"allows_hooks": "yes"},
        {"bandwidth": [{"begin_hour": 24, "end_hour": 3, "bytes_per_second": 0}]},
        {"bandwidth": [{"begin_hour": 0, "end_hour": 24, "bytes_per_second": 5}]},
        {"start_jitter_seconds": 10**6},
    ],
)
def test_limits_that_make_no_sense(limits: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        create_policy(name="night", actor=make_person(superadmin=True), agent_limits=limits)


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_a_due_backup_waits_for_its_agent_and_is_offered_to_no_other() -> None:
    now = timezone.now()
    ours, theirs = (enrolled(name=name, next_run_at=now - timedelta(minutes=1)) for name in ("web01", "web02"))

    assert dispatch_due(now=now) == 2

    job = Job.objects.get(disk=ours.disk)
    assert (job.node, job.state, job.hinted_at) == (None, JobState.PENDING, None)
    [offer] = ours.client.polled().jobs
    assert (offer.id, offer.kind, offer.begins_at_once) == (str(job.pk), "backup", False)
    stolen = theirs.client.claim(job.pk)
    assert (stolen.status_code, stolen.json()["code"]) == (404, "not_found")
    claim = ours.client.claim(job.pk).json()
    assert (claim["kind"], claim["backup"]) == ("backup", job.backup_name)
    again = ours.client.claim(job.pk)
    assert (again.status_code, again.json()["code"]) == (409, "not_to_be_had")
    assert again["Retry-After"] == "60"
    # What it works on is not offered again; what was canceled, or is no job of its own, it is told.
    cancel_job(job=job, actor=make_person(superadmin=True), now=now)
    told = ours.client.polled(jobs=[str(job.pk), "nonsense", str(Job.objects.get(disk=theirs.disk).pk)])
    assert told.jobs == []
    assert {UUID(key) for key in told.canceled} == set(Job.objects.values_list("pk", flat=True))


def test_why_a_job_waits_is_what_the_agent_says_unless_the_control_plane_knows_better(estate: Estate) -> None:
    dispatch_due(now=estate.definition.next_run_at)
    [offer] = estate.client.polled().jobs

    def waits(told: str) -> str:
        estate.client.polled(waits={offer.id: told, "nonsense": "x"})
        return str(Job.objects.get().waits)

    assert waits("On \x1b[31mbattery." + "x" * 300) == "the agent says: On battery." + "x" * 173
    assert waits("Outside of the window.") == "the agent says: Outside of the window."
    assert waits("") == ""
    Job.objects.update(waits="tenant Demo runs 4 of 4")
    assert waits("On battery.") == "tenant Demo runs 4 of 4"


def test_nothing_is_dispatched_for_a_stopped_agent_and_one_run_when_it_is_back() -> None:
    now = timezone.now()
    estate = enrolled(next_run_at=now)
    revoke_agent(agent=estate.agent, actor=None)

    assert dispatch_due(now=now + timedelta(days=3)) == 0
    Agent.objects.update(status=Agent.Status.ENROLLED)
    assert dispatch_due(now=now + timedelta(days=3)) == 1


@pytest.mark.case("AG-10")
def test_a_server_that_was_away_for_days_catches_up_once() -> None:
    now = timezone.now()
    estate = enrolled(cron="0 * * * *", next_run_at=now)

    for hours in range(12):
        dispatch_due(now=now + timedelta(hours=hours))
        sweep(now=now + timedelta(hours=hours))

    job = Job.objects.get()
    assert job.waits == "the agent was not heard of since it was enrolled"
    assert Definition.objects.get().next_run_at > now + timedelta(hours=11)
    assert [offer.id for offer in estate.client.polled().jobs] == [str(job.pk)]
    sweep(now=timezone.now())
    assert Job.objects.get().waits == ""


def test_a_job_whose_agent_never_came_back_begins_anew_and_its_former_claim_is_worth_nothing() -> None:
    now = timezone.now()
    estate = enrolled(next_run_at=now)
    dispatch_due(now=now)
    job = Job.objects.get()
    assert estate.client.claim(job.pk).status_code == 200

    # Within the hour it may take it up again.
    with travel(now + timedelta(minutes=30)):
        sweep(now=timezone.now())
        assert [offer.id for offer in estate.client.polled().jobs] == [str(job.pk)]
    with travel(now + timedelta(minutes=90)):
        sweep(now=timezone.now())
        sweep(now=timezone.now())

    first, retry = Job.objects.order_by("created_at")
    assert (first.state, first.code) == (JobState.FAILED, "worker_lost")
    assert (retry.state, retry.retry_of, retry.node) == (JobState.PENDING, first, None)


def test_a_backup_now_is_one_however_often_it_is_asked_for(estate: Estate) -> None:
    dispatch_due(now=estate.definition.next_run_at)
    waiting = Job.objects.get()

    answers = [estate.client.ask("start/", _Empty()).json() for _ in range(3)]

    assert {answer["id"] for answer in answers} == {str(waiting.pk)}
    assert estate.client.polled().jobs[0].begins_at_once
    revoke_agent(agent=estate.agent, actor=None)
    assert estate.client.ask("start/", _Empty()).json()["code"] == "agent_revoked"


class _Empty(msgspec.Struct):
    pass
