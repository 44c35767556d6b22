"""The sender against a real web server and a real mail server on loopback."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from email import message_from_string, policy
from pathlib import Path
from typing import Any

import pytest
from django.core import mail as django_mail
from django.utils import timezone
from pydantic import SecretStr

from backupsite.mail import mail_settings
from common.errors import ConflictError
from tenants.models import AuditEvent, NoticeEvent, NoticeKey, OutboxMessage, Subscription, Tenant, Webhook
from tenants.notices import publish, sender, services
from tenants.notices.sealing import publish_sender_key, seal, unseal
from tenants.notices.sender import MAILS_PER_WINDOW, send_due
from tenants.tasks import send_notices
from tests.factories import NOTICE_KEY, make_person, make_subscription, make_tenant, make_webhook
from tests.tenants.notice_world import LOOPBACK, Clock, mail_receiver, receiver, tools

pytestmark = pytest.mark.django_db
State = OutboxMessage.State


@pytest.fixture
def hook() -> Iterator[Any]:
    with receiver() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tenant() -> Tenant:
    return make_tenant("Ours")


def happens(tenant: Tenant, clock: Clock, *, times: int = 1, **facts: Any) -> None:
    for _ in range(times):
        publish(event="backup.failed", tenant=tenant, subject=tenant, name="db1 disk 1", facts=facts, at=clock.now)


def secret_of(webhook: Webhook) -> str:
    return unseal(webhook.sealed_secret, webhook_id=webhook.pk, private=NOTICE_KEY)


def is_signed_with(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """As a receiver of the Standard Webhooks scheme checks it."""
    told = {name.lower(): value for name, value in headers.items()}
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{told['webhook-id']}.{told['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return f"v1,{expected}" in told["webhook-signature"].split()


# --- webhooks ---------------------------------------------------------------------------------------------------------


def test_a_webhook_gets_a_signed_event(hook: Any, clock: Clock, tenant: Tenant) -> None:
    webhook = make_webhook(tenant, url=hook.url)
    happens(tenant, clock, server="db1", message="The disk is gone.")

    assert send_due(tools(clock), seconds=5) == 1

    (headers, body) = hook.seen[0]
    told = json.loads(body)
    assert is_signed_with(secret_of(webhook), headers, body)
    assert not is_signed_with(secret_of(webhook), headers, body + b" ")
    assert (told["type"], told["timestamp"]) == ("backup.failed", "2026-03-02T10:00:00Z")
    assert told["data"]["facts"] == {"server": "db1", "message": "The disk is gone."}
    assert told["data"]["tenant"] == {"id": str(tenant.pk), "name": tenant.name}
    message = OutboxMessage.objects.get()
    assert headers["webhook-id"] == str(message.pk)
    assert (message.state, message.status_code, message.answer) == (State.DONE, 200, "thanks")


def test_a_failed_attempt_comes_again_with_the_same_id_and_bytes(hook: Any, clock: Clock, tenant: Tenant) -> None:
    make_webhook(tenant, url=hook.url)
    happens(tenant, clock)
    hook.status, hook.text = 503, b"\x1b[31mgo away\r\n" + b"x" * 5000
    send_due(tools(clock), seconds=5)
    failed = OutboxMessage.objects.get()
    hook.status = 200
    clock.forward(seconds=11)

    send_due(tools(clock), seconds=5)

    assert (failed.state, failed.status_code, failed.last_error) == (State.PENDING, 503, "It answered 503.")
    assert len(failed.answer) <= 1024 and failed.answer.startswith("[31mgo away x")
    assert hook.seen[0][0]["webhook-id"] == hook.seen[1][0]["webhook-id"]
    assert hook.seen[0][1] == hook.seen[1][1]
    assert int(hook.seen[1][0]["webhook-timestamp"]) - int(hook.seen[0][0]["webhook-timestamp"]) == 11
    assert OutboxMessage.objects.get().state == State.DONE


def test_an_endpoint_in_trouble_gets_one_attempt_and_not_all_that_waits(
    hook: Any, clock: Clock, tenant: Tenant
) -> None:
    make_webhook(tenant, url=hook.url)
    happens(tenant, clock, times=5)
    hook.status = 500

    send_due(tools(clock), seconds=5)

    assert len(hook.seen) == 1
    hook.status = 200
    clock.forward(seconds=11)
    assert send_due(tools(clock), seconds=5) == 5


def test_a_redirect_is_a_failure(hook: Any, clock: Clock, tenant: Tenant) -> None:
    make_webhook(tenant, url=hook.url)
    happens(tenant, clock)
    hook.status = 302

    send_due(tools(clock), seconds=5)

    assert OutboxMessage.objects.get().last_error == "It answered 302; redirects are not followed."


def test_an_endpoint_of_another_tenant_that_fails_holds_nobody_up(hook: Any, clock: Clock, tenant: Tenant) -> None:
    make_webhook(tenant, url="http://127.0.0.1:1/")
    other = make_tenant()
    make_webhook(other, url=hook.url)
    happens(tenant, clock, times=30)
    happens(other, clock)

    assert send_due(tools(clock), seconds=5) == 1


def test_inside_is_not_spoken_to(hook: Any, clock: Clock, tenant: Tenant) -> None:
    make_webhook(tenant, url=hook.url.replace("http:", "https:"))
    happens(tenant, clock)

    send_due(tools(clock, guard=services.guard()), seconds=5)

    message = OutboxMessage.objects.get()
    assert hook.seen == []
    assert message.last_error == "The host is, or leads to, an address that the service does not speak to."


def test_while_a_secret_is_changed_both_signatures_are_there(hook: Any, clock: Clock, tenant: Tenant) -> None:
    webhook = make_webhook(tenant, url=hook.url)
    old = secret_of(webhook)
    new = services.rotate_secret(webhook, actor=make_person(superadmin=True), now=clock.now)
    happens(tenant, clock)
    send_due(tools(clock), seconds=5)
    clock.forward(hours=25)
    happens(tenant, clock)
    send_due(tools(clock), seconds=5)

    assert [is_signed_with(old, *call) for call in hook.seen] == [True, False]
    assert [is_signed_with(new, *call) for call in hook.seen] == [True, True]


def test_a_secret_that_was_sealed_for_another_key_or_webhook_does_not_open(
    hook: Any, clock: Clock, tenant: Tenant
) -> None:
    webhook, other = make_webhook(tenant, url=hook.url), make_webhook(make_tenant())
    Webhook.objects.filter(pk=webhook.pk).update(sealed_secret=other.sealed_secret)
    happens(tenant, clock)

    send_due(tools(clock), seconds=5)

    assert hook.seen == []
    assert "Make a new secret" in OutboxMessage.objects.get().last_error


def test_the_test_button_sends_one_test_at_a_time(hook: Any, clock: Clock, tenant: Tenant) -> None:
    webhook = make_webhook(tenant, url=hook.url, events=["backup.ok"], severity=3)
    actor = make_person(superadmin=True)
    services.send_test(webhook, actor=actor, now=clock.now)
    with pytest.raises(ConflictError):
        services.send_test(webhook, actor=actor, now=clock.now)

    send_due(tools(clock), seconds=5)

    assert json.loads(hook.seen[0][1])["type"] == "notice.test"
    services.send_test(webhook, actor=actor, now=clock.now)


def test_a_fault_of_our_own_is_no_crash_and_is_tried_again(clock: Clock, tenant: Tenant) -> None:
    make_webhook(tenant)
    happens(tenant, clock)

    def broken(*_: object, **__: object) -> Any:
        raise ZeroDivisionError

    send_due(tools(clock, poster=broken), seconds=5)

    assert OutboxMessage.objects.get().state == State.PENDING


def test_no_secret_is_in_a_log_a_row_or_a_repr(
    hook: Any, clock: Clock, tenant: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    actor = make_person(superadmin=True)
    make_webhook(tenant)
    webhook, secret = services.add_webhook(
        tenant=tenant, label="x", url="https://hook.example.com/private-path", events=[], severity=1, actor=actor
    )
    Webhook.objects.filter(pk=webhook.pk).update(url=hook.url)
    happens(tenant, clock)
    hook.status = 500

    send_due(tools(clock), seconds=5)

    rows = [
        *Webhook.objects.values_list(),
        *OutboxMessage.objects.values_list(),
        *NoticeEvent.objects.values_list(),
        *AuditEvent.objects.values_list(),
    ]
    key = secret.removeprefix("whsec_")
    for text in (caplog.text, repr(rows), repr(tools(clock)), repr(webhook)):
        assert key not in text
        assert NOTICE_KEY.hex() not in text
    assert "private-path" not in repr(list(AuditEvent.objects.values_list()))


# --- mails ------------------------------------------------------------------------------------------------------------


def sent() -> list[Any]:
    return list(django_mail.outbox)


def test_a_mail_says_what_happened(clock: Clock, tenant: Tenant) -> None:
    make_subscription(tenant=tenant, address="team@example.com")
    happens(tenant, clock, server="db1", message="The disk is gone.")

    send_due(tools(clock), seconds=5)

    (mail,) = sent()
    assert (mail.to, mail.subject) == (["team@example.com"], "[Backupsite] A backup of db1 disk 1 failed.")
    assert "message   The disk is gone." in mail.body
    assert "2026-03-02 10:00:00 UTC" in mail.body
    assert mail.extra_headers["Auto-Submitted"] == "auto-generated"


def test_times_are_in_the_zone_of_the_person(clock: Clock, tenant: Tenant) -> None:
    person = make_person(administers=[tenant], time_zone="Asia/Tokyo")
    person.email = "p@example.com"
    person.save()
    make_subscription(person=person)
    happens(tenant, clock)

    send_due(tools(clock), seconds=5)

    assert "2026-03-02 19:00:00 JST" in sent()[0].body


@pytest.mark.case("IN-12")
@pytest.mark.parametrize(
    "evil",
    [
        "x\r\nBcc: victim@example.com",
        "x\n\nbody",
        "{{ settings.SECRET_KEY }}{% load x %}",
        "\x1b]0;owned\x07\u202egnp.exe",
        "n" * 5000,
    ],
)
def test_what_people_typed_is_text_and_never_header_or_template(evil: str, clock: Clock, tenant: Tenant) -> None:
    make_subscription(tenant=tenant, address="team@example.com")
    publish(event="backup.failed", tenant=tenant, subject=tenant, name=evil, facts={"message": evil}, at=clock.now)

    send_due(tools(clock), seconds=5)

    (mail,) = sent()
    parsed = message_from_string(mail.message().as_string(), policy=policy.default)
    assert parsed["Bcc"] is None and parsed["To"] == "team@example.com"
    assert len(mail.subject) <= 150
    assert "\x1b" not in mail.body and "\u202e" not in mail.body
    if "{{" in evil:
        assert evil in mail.body


def test_a_flood_becomes_a_few_mails_and_a_digest(clock: Clock, tenant: Tenant) -> None:
    make_subscription(tenant=tenant, address="team@example.com")
    happens(tenant, clock, times=3)
    send_due(tools(clock), seconds=5)
    happens(tenant, clock, times=150)
    send_due(tools(clock), seconds=5)

    assert len(sent()) == 4
    assert sent()[-1].subject == "[Backupsite] 150 events, the worst of them: critical"
    assert "and 50 more" in sent()[-1].body
    for _ in range(20):
        happens(tenant, clock, times=10)
        clock.forward(seconds=20)
        send_due(tools(clock), seconds=5)
    assert len(sent()) == MAILS_PER_WINDOW
    clock.forward(minutes=11)
    send_due(tools(clock), seconds=5)
    assert len(sent()) == MAILS_PER_WINDOW + 1
    assert not OutboxMessage.objects.exclude(state=State.DONE).exists()


def test_a_flood_to_one_does_not_hold_up_another(clock: Clock, tenant: Tenant) -> None:
    make_subscription(tenant=tenant, address="team@example.com")
    other = make_tenant()
    make_subscription(tenant=other, address="other@example.com")
    happens(tenant, clock, times=30)
    happens(other, clock)

    send_due(tools(clock), seconds=5)

    assert {mail.to[0] for mail in sent()} == {"team@example.com", "other@example.com"}


@pytest.mark.parametrize("end", ["right", "account", "subscription", "address"])
def test_what_is_no_longer_his_business_is_not_sent(end: str, clock: Clock, tenant: Tenant) -> None:
    person = make_person(administers=[tenant])
    person.email = "p@example.com"
    person.save()
    make_subscription(person=person)
    happens(tenant, clock)
    if end == "right":
        tenant.user_grants.all().delete()
    elif end == "subscription":
        Subscription.objects.update(active=False)
    else:
        setattr(person, *{"account": ("is_active", False), "address": ("email", "")}[end])
        person.save()

    send_due(tools(clock), seconds=5)

    assert sent() == []
    assert OutboxMessage.objects.get().state == State.DEAD


def test_good_news_are_marked_as_such(clock: Clock, tenant: Tenant) -> None:
    make_subscription(tenant=tenant, address="team@example.com", severity=3)
    for event in ("backup.failed", "backup.ok"):
        publish(event=event, tenant=tenant, subject=tenant, name="db1", cause="c", at=clock.now)

    send_due(tools(clock), seconds=5)

    assert sorted(mail.subject for mail in sent()) == [
        "[Backupsite] A backup of db1 failed.",
        "[Backupsite] Over: A backup of db1 was made.",
    ]


def test_a_real_mail_server_gets_it(clock: Clock, tenant: Tenant, settings: Any) -> None:
    make_subscription(tenant=tenant, address="team@example.com")
    happens(tenant, clock)
    with mail_receiver() as server:
        use_server(settings, server.server_address[1])
        assert send_due(tools(clock), seconds=5) == 1

    ((receivers, text),) = server.mails
    assert receivers == ["RCPT TO:<team@example.com>"] or receivers == ["rcpt TO:<team@example.com>"]
    parsed = message_from_string(text, policy=policy.default)
    assert parsed["Subject"] == "[Backupsite] A backup of db1 disk 1 failed."


@pytest.mark.parametrize(
    ("answer", "state", "error"),
    [
        (b"550 no such user", State.DEAD, "The mail server refuses the address (550)."),
        (b"451 later", State.PENDING, "The mail server refuses the address (451)."),
    ],
)
def test_a_refused_address_is_final_and_a_busy_server_is_not(
    answer: bytes, state: str, error: str, clock: Clock, tenant: Tenant, settings: Any
) -> None:
    make_subscription(tenant=tenant, address="team@example.com")
    happens(tenant, clock)
    with mail_receiver() as server:
        server.answer_to_receiver = answer
        use_server(settings, server.server_address[1])
        send_due(tools(clock), seconds=5)

    message = OutboxMessage.objects.get()
    assert (message.state, message.last_error) == (state, error)


def test_a_mail_server_that_is_away_is_tried_again(clock: Clock, tenant: Tenant, settings: Any) -> None:
    make_subscription(tenant=tenant, address="team@example.com")
    happens(tenant, clock)
    use_server(settings, 1)

    send_due(tools(clock), seconds=5)

    message = OutboxMessage.objects.get()
    assert (message.state, message.next_try_at) == (State.PENDING, clock.now + timedelta(seconds=10))


def use_server(settings: Any, port: int) -> None:
    for name, value in mail_settings(f"smtp+plain://127.0.0.1:{port}", folder=Path()).items():
        setattr(settings, name, value)


def test_without_a_mail_server_mails_are_files_that_only_the_service_reads(
    clock: Clock, tenant: Tenant, settings: Any, tmp_path: Path
) -> None:
    for name, value in mail_settings(None, folder=tmp_path / "mail").items():
        setattr(settings, name, value)
    make_subscription(tenant=tenant, address="team@example.com")
    happens(tenant, clock)

    send_due(tools(clock), seconds=5)

    (file,) = (tmp_path / "mail").iterdir()
    assert "A backup of db1 disk 1 failed." in file.read_text()
    assert (tmp_path / "mail").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("smtp://u:p%40ss@mail.example.com", ("mail.example.com", 587, "u", "p@ss", True, False)),
        ("smtps://mail.example.com:4650", ("mail.example.com", 4650, "", "", False, True)),
        ("smtp+plain://10.0.0.1", ("10.0.0.1", 25, "", "", False, False)),
    ],
)
def test_the_address_of_a_mail_server(url: str, found: tuple[Any, ...]) -> None:
    read = mail_settings(url, folder=Path())

    names = ("HOST", "PORT", "HOST_USER", "HOST_PASSWORD", "USE_TLS", "USE_SSL")
    assert tuple(read[f"EMAIL_{name}"] for name in names) == found


@pytest.mark.parametrize(
    "url", ["mail.example.com", "http://mail.example.com", "smtp://", "smtp://h:99999", "smtp://h/x"]
)
def test_what_is_no_address_of_a_mail_server(url: str) -> None:
    with pytest.raises(ValueError, match="must be like smtp://"):
        mail_settings(url, folder=Path())


# --- the process ------------------------------------------------------------------------------------------------------


def test_the_task_publishes_the_senders_key_and_sends(settings: Any, tenant: Tenant, clock: Clock) -> None:
    private = bytes(range(32, 64))
    key = SecretStr(base64.b64encode(private).decode())
    settings.CONFIG = settings.CONFIG.model_copy(update={"notice_key": key})
    make_subscription(tenant=tenant, address="team@example.com")
    clock.now = timezone.now()
    happens(tenant, clock)

    send_notices()
    send_notices()

    assert NoticeKey.objects.count() == 1
    webhook = Webhook(tenant=tenant)
    assert unseal(seal("whsec_x", webhook_id=webhook.pk), webhook_id=webhook.pk, private=private) == "whsec_x"
    assert len(sent()) == 1


def test_a_sender_key_that_comes_back_is_the_newest_again() -> None:
    for private in (NOTICE_KEY, bytes(32), NOTICE_KEY):
        publish_sender_key(private)
        webhook = Webhook()
        assert unseal(seal("s", webhook_id=webhook.pk), webhook_id=webhook.pk, private=private) == "s"


def test_the_time_of_a_round_is_bounded(clock: Clock, tenant: Tenant) -> None:
    make_webhook(tenant)
    happens(tenant, clock, times=50)

    def slow(*_: object, **__: object) -> Any:
        clock.forward(seconds=2)
        return sender.Answer(status=200, body=b"", seconds=2.0)

    assert send_due(tools(clock, poster=slow, guard=LOOPBACK), seconds=9) == 5
