"""Slow, oversized and ambiguous requests: what the portal's server refuses, and what ends at the proxy before it."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from backupsite.stack.ports import PORT_SPAN, PORTAL_OFFSET, free_ports
from backupsite.stack.process import Child
from backupsite.stack.programs import PROJECT_ROOT, Programs
from backupsite.stack.secret_files import load_or_make
from backupsite.stack.settings import DATA_FOLDERS, StackSettings

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
HOST = b"Host: 127.0.0.1\r\n"
SLOW_SECONDS = 10
# More than the server has threads.
MANY = 30
pytestmark = [pytest.mark.stack, pytest.mark.case("IN-14"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The portal's real server, with the arguments that it always has; its port. Nothing here asks the database."""
    folder = tmp_path_factory.mktemp("proxy")
    for name in DATA_FOLDERS:
        (folder / name).mkdir(mode=0o700)
    settings = StackSettings(data=folder, port=free_ports(PORT_SPAN)[0])
    secrets = load_or_make(folder / "secrets")
    programs = Programs(settings=settings, secrets=secrets, broker_url="memory://", outside={"PATH": "/usr/bin:/bin"})
    child = Child(programs.long_running()[0])
    child.start()
    yield settings.port + PORTAL_OFFSET
    child.stop()


@pytest.fixture(scope="module")
def proxy(portal: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if NGINX is None:
        pytest.skip("no nginx: apt-get install nginx-light")
    folder, port = tmp_path_factory.mktemp("nginx"), free_ports(2)[0]
    text = (PROJECT_ROOT / "docs" / "nginx.conf").read_text()
    # Without certificates, on ports of our own; everything else as it stands there.
    text = re.sub(r"\n *ssl_certificate.*", "", text)
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port}", 1).replace(
        "listen 443 ssl", f"listen 127.0.0.1:{port + 1}"
    )
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{portal}")
    places = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/errors;\n"
        f"events {{}}\nhttp {{ access_log off;\n{places}{text}\n}}\n"
    )
    with subprocess.Popen([NGINX, "-p", str(folder), "-c", str(config)], stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, folder / "errors")
            yield port
        finally:
            process.terminate()


def _wait_for(port: int, log: Path) -> None:
    give_up_at = time.monotonic() + 60
    while time.monotonic() < give_up_at:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(log.read_text() if log.exists() else "nginx did not start")


def ask(port: int, request: bytes, *, seconds: float = 8) -> list[int]:
    """The statuses of all answers on one connection, until the other side closes it or is silent."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection, suppress(OSError):
        connection.sendall(request)
        while part := connection.recv(65536):
            answer += part
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3})", answer)]


def get(path: bytes = b"/livez", headers: bytes = b"", body: bytes = b"") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + HOST + headers + b"Connection: close\r\n\r\n" + body


SMUGGLED = b"GET /readyz HTTP/1.1\r\n" + HOST + b"\r\n"
BAD = {
    "a header of 9,000 bytes": get(headers=b"X-Long: " + b"x" * 9_000 + b"\r\n"),
    "a line of 9,000 bytes": get(b"/" + b"x" * 9_000),
    "40 KB of headers": get(headers=b"".join(b"X-%d: %s\r\n" % (number, b"y" * 4_000) for number in range(10))),
    "two lengths": get(headers=b"Content-Length: 0\r\nContent-Length: 50\r\n", body=SMUGGLED),
    "length and chunks": get(
        headers=b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "chunks by another name": get(headers=b"Transfer-Encoding: xchunked\r\n", body=b"0\r\n\r\n" + SMUGGLED),
    "chunks twice": get(headers=b"Transfer-Encoding: chunked, identity\r\n", body=b"0\r\n\r\n" + SMUGGLED),
    "a space before the colon": get(headers=b"Content-Length : 60\r\n", body=SMUGGLED),
    "a negative length": get(headers=b"Content-Length: -1\r\n", body=SMUGGLED),
    "a length in words": get(headers=b"Content-Length: 0x3c\r\n", body=SMUGGLED),
    "no version": b"GET /livez\r\n\r\n" + SMUGGLED,
    "a chunk without a size": get(headers=b"Transfer-Encoding: chunked\r\n", body=b"zz\r\n" + SMUGGLED),
}


@pytest.mark.parametrize("name", BAD)
def test_the_server_gives_one_answer_at_most_and_it_is_a_refusal_or_the_first_requests(portal: int, name: str) -> None:
    """Whatever stands in front of it: the request that is hidden in another one is never answered."""
    statuses = ask(portal, BAD[name])

    assert len(statuses) <= 1, statuses
    assert all(status in {200, 400, 414, 431, 501} for status in statuses)


@pytest.mark.parametrize("name", BAD)
def test_so_does_the_proxy(proxy: int, name: str) -> None:
    assert len(statuses := ask(proxy, BAD[name])) <= 1, statuses


def test_what_is_right_passes(proxy: int) -> None:
    assert ask(proxy, get(), seconds=60) == [200]


def test_too_much_is_refused_before_it_is_sent(proxy: int) -> None:
    head = b"POST /api/v1/tenants/ HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"

    assert ask(proxy, head + b"Content-Length: 2000000\r\n\r\n", seconds=60) == [413]


@pytest.mark.long
def test_who_sends_slowly_holds_nobody_up_and_is_cut(proxy: int) -> None:
    """Half of them never end their headers, half never their body."""
    body = b"POST /login/ HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\nx"
    with ExitStack() as open_ones:
        slow = []
        for number in range(MANY):
            connection = socket.create_connection(("127.0.0.1", proxy), timeout=60)
            open_ones.enter_context(connection)
            connection.sendall(body if number % 2 else b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b\r\n")
            slow.append(connection)
        began = time.monotonic()

        # Each gives up after 8 seconds, before the slow ones are cut.
        assert [ask(proxy, get()) for _ in range(3)] == [[200]] * 3

        for connection in slow:
            with suppress(ConnectionError):
                while connection.recv(4096):
                    pass
        # By itself nginx would wait for a minute.
        assert time.monotonic() - began < SLOW_SECONDS + 30
