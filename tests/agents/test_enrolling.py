"""One token, one agent: whoever else comes with it, however often, at whatever moment."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.utils import timezone
from time_machine import travel

from agents.answer_signing import fingerprint
from agents.enrolment import enrol_line, forget_tokens, install_line, make_token, revoke_token
from agents.models import Agent, EnrolmentToken, Server, WriterKey
from agents.principals import approve_agent, revoke_agent
from common.errors import ConflictError, InvalidInputError, QuotaError
from engine.crypto import generate_writer_key
from tenants.models import AuditEvent, Quota, QuotaKind
from tests.agents.agent_client import HOST, AgentClient, is_signed
from tests.agents.agent_worlds import Program, answer_of, bare_server, token_for
from tests.api.test_concurrent_requests import at_once
from tests.factories import make_person, make_server
from tests.signing_in import sign_in

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.agents.both_urls")]


@pytest.fixture
def server() -> Server:
    return bare_server()


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer["Content-Type"] == "application/problem+json"


def test_a_program_becomes_the_agent_of_its_server(server: Server) -> None:
    program = token_for(server)

    told = answer_of(program.enrol())

    agent = Agent.objects.get()
    assert (told.agent_id, told.server, told.status) == (str(agent.pk), "web01", "enrolled")
    assert told.control_key == django_settings.CONFIG.control_public_key_bytes
    assert (agent.machine, agent.facts["hostname"], agent.version) == (HOST.machine, "web01", "1.0")
    # What it signs manifests with counts for its own server alone.
    assert bytes(WriterKey.objects.get(agent=agent).public_key) == program.writer.public
    disk = server.disks.get()
    assert (disk.driver, disk.storage, disk.path, disk.tenant) == ("host", None, "/", server.tenant)
    assert AgentClient(agent, program.key.private).ask("me/", method="GET").status_code == 200
    assert AuditEvent.objects.filter(action="agent.enrol", subject_id=str(agent.pk)).exists()


def test_page_and_api_show_both_lines_and_the_token_once(server: Server, client: Any) -> None:
    """The package needs the gate's address, which may be another one than the portal's."""
    sign_in(client, make_person(administers=[server.tenant]))

    shown = client.post(f"/servers/{server.pk}/enrol/", {"expected_host": "", "minutes": "30"}).content.decode()
    told = client.post("/api/v1/enrolment-tokens/", {"server": str(server.pk)}, content_type="application/json").json()

    assert enrol_line() in shown and "install.sh | sh -s -- bsa1." in shown
    assert shown.count("bsa1.") == 2 and "bsa1." not in client.get(f"/servers/{server.pk}/enrol/").content.decode()
    assert told["install_line"].endswith(told["token"])
    assert told["enrol_line"] == enrol_line() and told["token"] not in told["enrol_line"]


def test_the_token_says_little_and_the_database_less(server: Server) -> None:
    token, text = make_token(server=server, actor=None, now=timezone.now())

    kind, secret, key = text.split(".")
    assert kind == "bsa1"
    assert key == fingerprint(django_settings.CONFIG.control_public_key_bytes)
    assert install_line(text).endswith(f"/agent/install.sh | sh -s -- {text}")
    assert enrol_line() == f"backupsite-agent enrol - --url {django_settings.CONFIG.gate_url}"
    kept = [*EnrolmentToken.objects.values_list(), *AuditEvent.objects.values_list()]
    assert secret not in str(kept) + repr(token) + repr(Program(secret).request())


@pytest.mark.case("AZ-07")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("same", [False, True])
def test_fifty_at_once_with_one_token_are_one_agent(server: Server, same: bool) -> None:
    first = token_for(server)
    programs = [first if same else Program(first.secret) for _ in range(50)]

    answers = at_once([program.enrol for program in programs])

    won = [answer for answer in answers if answer.status_code == 200]
    assert len(won) == (50 if same else 1), {answer.content for answer in answers}
    assert {answer.json()["code"] for answer in answers if answer not in won} <= {"token_refused"}
    assert {answer_of(answer).agent_id for answer in won} == {str(Agent.objects.get().pk)}
    assert WriterKey.objects.count() == 1


def test_an_answer_that_was_lost_is_given_again_while_the_token_lives(server: Server) -> None:
    program = token_for(server, minutes=10)
    first = answer_of(program.enrol())

    assert answer_of(program.enrol()).agent_id == first.agent_id
    refused(program.enrol(writer_key=generate_writer_key().public), 401, "token_refused")
    with travel(timezone.now() + timedelta(minutes=11), tick=False):
        refused(program.enrol(), 401, "token_refused")
    revoke_agent(agent=Agent.objects.get(), actor=None)
    refused(program.enrol(), 401, "token_refused")


@pytest.mark.case("AZ-08")
def test_what_is_no_token_any_more_is_refused_alike(server: Server) -> None:
    now = timezone.now().replace(microsecond=0)
    program = token_for(server, now=now, minutes=1)
    revoked = token_for(server, now=now)
    revoke_token(token=EnrolmentToken.objects.latest("created_at"), actor=make_person(superadmin=True), now=now)

    with travel(now + timedelta(seconds=61), tick=False):
        found = [Program("x" * 43), Program(program.secret[:-1]), Program(""), program, revoked]
        answers = [one.enrol() for one in found]
    with travel(now + timedelta(seconds=59), tick=False):
        in_time = program.enrol()

    assert len({(answer.status_code, answer.content) for answer in answers}) == 1
    refused(answers[0], 401, "token_refused")
    assert in_time.status_code == 200


def test_a_token_is_forgotten_a_week_after_its_end_and_the_audit_keeps_it(server: Server) -> None:
    now = timezone.now()
    token_for(server, now=now, minutes=60)
    key = str(EnrolmentToken.objects.get().pk)

    assert forget_tokens(now=now + timedelta(days=7, minutes=59)) == 0
    assert forget_tokens(now=now + timedelta(days=7, minutes=60)) == 1
    assert AuditEvent.objects.filter(action="enrolment.token", subject_id=key).exists()


def test_the_page_of_a_token_waits_for_first_contact(server: Server, client: Any) -> None:
    sign_in(client, make_person(superadmin=True))
    made = client.post(f"/servers/{server.pk}/enrol/", {"minutes": 30, "expected_host": "other"}).content.decode()
    program = Program(made.partition("sh -s -- bsa1.")[2].partition(".")[0])
    path = f"/enrolment-tokens/{EnrolmentToken.objects.get().pk}/contact/"

    def shown(seen: str = "") -> tuple[int, str, bool]:
        answer = client.get(path, {"seen": seen})
        return answer.status_code, " ".join(answer.content.decode().split()), b"hx-get" in answer.content

    assert f"{path}?seen=open-0" in made
    assert shown("open-0") == (204, "", False)
    agent_id = answer_of(program.enrol()).agent_id
    assert "other was expected" in shown("open-0")[1]
    approve_agent(agent=Agent.objects.get(), actor=make_person(superadmin=True))
    assert "Waiting until it asks for work" in shown("pending-0")[1]
    AgentClient(Agent.objects.get(pk=agent_id), program.key.private).polled()
    status, text, is_live = shown("enrolled-0")
    assert (status, is_live) == (200, False)
    assert "is enrolled and asks for work" in text


@pytest.mark.case("AZ-09")
@pytest.mark.parametrize(
    ("expected", "came", "status"),
    [
        ("", "anything", "enrolled"),
        ("web01", "web01", "enrolled"),
        ("WEB01", "web01.example.com", "enrolled"),
        ("web01.example.com", "web01.example.com.", "enrolled"),
        ("web01", "web011", "pending"),
        ("web01.example.com", "web01.example.org", "pending"),
        ("web01.example.com", "web01", "pending"),
    ],
)
def test_another_host_than_the_expected_waits_for_a_person(
    server: Server, expected: str, came: str, status: str
) -> None:
    program = token_for(server, expected_host=expected)
    program.host = type(HOST)(hostname=came, machine="m", boot="b")

    assert answer_of(program.enrol()).status == status

    agent = Agent.objects.get()
    client = AgentClient(agent, program.key.private)
    if status == "pending":
        refused(client.poll(host=program.host), 403, "agent_pending")
        assert not server.disks.exists()
        approve_agent(agent=agent, actor=make_person(superadmin=True))
    assert client.poll(host=program.host).status_code == 200
    assert server.disks.get().driver == "host"


def test_a_token_that_was_refused_for_another_reason_is_as_good_as_before(server: Server) -> None:
    program = token_for(server)
    for changes, status, code in (
        ({"public_key": b"short"}, 400, "invalid_input"),
        ({"writer_key": program.key.public}, 400, "invalid_input"),
        ({"host": type(HOST)(hostname="a\nb", machine="m", boot="b")}, 400, "invalid_input"),
    ):
        refused(program.enrol(**changes), status, code)
    Quota.objects.create(tenant=server.tenant, kind=QuotaKind.AGENTS, hard=0)
    refused(program.enrol(), 409, "quota_exceeded")
    Quota.objects.all().delete()
    other = bare_server(server.tenant, name="other")
    taken = token_for(other)
    answer_of(taken.enrol())
    for keys in ({"public_key": taken.key.public}, {"writer_key": taken.writer.public}):
        refused(program.enrol(**keys), 409, "key_taken")

    assert answer_of(program.enrol()).status == "enrolled"


def test_which_servers_get_no_token(server: Server) -> None:
    now, person = timezone.now(), make_person(superadmin=True)
    for wrong in ({"minutes": 61}, {"minutes": 0}, {"expected_host": "a b"}, {"expected_host": "x" * 256}):
        with pytest.raises(InvalidInputError):
            make_token(server=server, actor=person, now=now, **wrong)
    with pytest.raises(ConflictError, match="stands on a node"):
        make_token(server=make_server(), actor=person, now=now)
    token, text = make_token(server=server, actor=person, now=now)
    Quota.objects.create(tenant=server.tenant, kind=QuotaKind.AGENTS, hard=0)
    with pytest.raises(QuotaError):
        make_token(server=server, actor=person, now=now)
    Quota.objects.all().delete()
    answer_of(Program(text.split(".")[1]).enrol())
    with pytest.raises(ConflictError, match="has an agent"):
        make_token(server=server, actor=person, now=now)
    with pytest.raises(ConflictError, match="was used"):
        revoke_token(token=token, actor=person, now=now)


def test_who_was_revoked_comes_back_with_other_keys(server: Server) -> None:
    first = answer_of(token_for(server).enrol())
    agent = Agent.objects.get()
    revoke_agent(agent=agent, actor=None)

    again = answer_of(token_for(server).enrol())

    assert again.agent_id == first.agent_id
    assert WriterKey.objects.filter(agent=agent).count() == 2
    assert server.disks.count() == 1


def test_what_nobody_signed_is_answered_signed_too(client: Any) -> None:
    """Errors of the framework, a wrong method, a body that is none."""
    for method, path, body in (
        ("POST", "/agent/v1/nothing/", b"x"),
        ("GET", "/agent/v1/enrol/", b""),
        ("POST", "/agent/v1/enrol/", b"{"),
        ("POST", "/agent/v1/poll/", b"{}"),
        ("POST", "/agent/v1/enrol/", b" " * (1024 * 1024 + 1)),
    ):
        answer = client.generic(method, path, body, content_type="application/json")
        assert answer.status_code >= 400
        assert is_signed(answer, body=body if len(body) < 1024 * 1024 else b""), (method, path)
