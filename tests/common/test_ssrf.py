"""IN-01: an address that somebody typed never leads into the service's own network."""

from __future__ import annotations

import http.server
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from common import guarded_http
from common.guarded_http import LARGEST_ANSWER_BYTES, DeliveryError, post
from common.ssrf import ForbiddenTargetError, Guard, is_public, parse_target, vetted_addresses

PUBLIC = Guard()
LOOPBACK = Guard.of("127.0.0.0/8, ::1/128")


def leads_to(*addresses: str) -> Callable[[str, int], Sequence[str]]:
    return lambda host, port: addresses


@pytest.mark.case("IN-01")
@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0x/",
        "https://017700000001/",
        "https://0177.0.0.1/",
        "https://127.0.0.1./",
        "https://0/",
        "https://0.0.0.0/",
        "https://10.0.0.8/",
        "https://172.31.255.255/",
        "https://192.168.1.1/",
        "https://100.100.100.200/",
        "https://169.254.169.254/latest/meta-data/",
        "https://168.63.129.16/",
        "https://192.0.0.192/",
        "https://198.18.0.1/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:8.8.8.8]/",
        "https://[::127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[2001:0:7f00:1::]/",
        "https://[fe80::1%25eth0]/",
        "https://[2606:4700::1%25eth0]/",
        "https://[fd00:ec2::254]/",
        "https://[fec0::1]/",
        "https://[ff02::1]/",
        "https://[2001:db8::1]/",
        "https://１２７.0.0.1/",
        "https://127。0。0。1/",
        "https://exa mple.com/",
        "https://example.com\\@127.0.0.1/",
        "https://example.com/\r\nX: y",
        "https://user:secret@example.com/",
        "https://example.com#@127.0.0.1/",
        "https://example.com:22/",
        "https://example.com:25/",
        "https://example.com:99999/",
        "https://exa_mple-.com/",
        "https:///path",
        "https://",
        "http://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "ftp://example.com/",
        "//example.com/",
        "example.com",
        "",
        "https://" + "a" * 500,
    ],
)
def test_such_an_address_is_refused_as_it_is_typed(url: str) -> None:
    with pytest.raises(ForbiddenTargetError):
        parse_target(url, guard=PUBLIC)


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("https://hooks.example.com", "hooks.example.com", "/"),
        ("https://Hooks.Example.com./a/b?c=d%20e", "hooks.example.com", "/a/b?c=d%20e"),
        ("https://example.com:8443/x", "example.com:8443", "/x"),
        ("https://9.9.9.9/", "9.9.9.9", "/"),
        ("https://[2606:4700::1111]:8443/", "[2606:4700::1111]:8443", "/"),
    ],
)
def test_a_public_address_is_taken_in_its_plain_form(url: str, authority: str, path: str) -> None:
    target = parse_target(url, guard=PUBLIC)

    assert (target.authority, target.path) == (authority, path)


@pytest.mark.parametrize(
    "addresses",
    [("127.0.0.1",), ("10.0.0.1",), ("9.9.9.9", "127.0.0.1"), ("::1",), ("::ffff:10.0.0.1",), ("fe80::1%2",)],
)
def test_a_name_that_leads_inside_is_refused_without_telling_where(addresses: tuple[str, ...]) -> None:
    target = parse_target("https://rebind.example.com/", guard=PUBLIC)

    with pytest.raises(ForbiddenTargetError) as caught:
        vetted_addresses(target, guard=PUBLIC, resolve=leads_to(*addresses))

    assert not any(address in caught.value.message for address in addresses)


def test_the_operator_allows_networks_of_his_own_and_there_http() -> None:
    guard = Guard.of("10.1.0.0/16")
    target = parse_target("http://hook.internal:8080/", guard=guard)

    assert vetted_addresses(target, guard=guard, resolve=leads_to("10.1.2.3")) == (ipaddress.ip_address("10.1.2.3"),)
    for outside in (("10.2.0.1",), ("9.9.9.9",), ("127.0.0.1",), ("10.1.2.3", "9.9.9.9")):
        with pytest.raises(ForbiddenTargetError):
            vetted_addresses(target, guard=guard, resolve=leads_to(*outside))


def test_a_wrong_network_is_named() -> None:
    with pytest.raises(ValueError, match=r"10\.1\.0\.1/16"):
        Guard.of("10.1.0.1/16")


@pytest.mark.case("IN-01")
@given(st.ip_addresses())
def test_what_python_calls_special_is_never_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    special = address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
    if special or address.is_reserved or address.is_unspecified or not address.is_global:
        assert not is_public(address)


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for url in (text, f"https://{text}", f"https://{text}/"):
        try:
            target = parse_target(url, guard=PUBLIC)
        except ForbiddenTargetError:
            continue
        assert target.host.isascii() and target.path.isprintable()


# --- the call, against a real server on loopback ----------------------------------------------------------------------


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers as its server's `answer` says, and keeps what it got."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers), body))
        self.server.answer(self)

    def log_message(self, *_: object) -> None:
        return


def ok(handler: Receiver) -> None:
    handler.send_response(204)
    handler.end_headers()


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    found.seen, found.answer = [], ok
    found.daemon_threads = True
    thread = threading.Thread(target=found.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


def send(server: http.server.ThreadingHTTPServer, **options: object) -> guarded_http.Answer:
    scheme = options.pop("scheme", "http")
    url = f"{scheme}://hook.test:{server.server_port}/in?a=b"
    given: dict[str, object] = {"guard": LOOPBACK, "resolve": leads_to("127.0.0.1"), **options}
    return post(url, body=b'{"a":1}', headers={"X-Own": "yes"}, **given)


def test_it_sends_the_body_to_the_vetted_address_under_the_name(server: http.server.ThreadingHTTPServer) -> None:
    answer = send(server)

    path, headers, body = server.seen[0]
    assert (answer.status, path, body) == (204, "/in?a=b", b'{"a":1}')
    assert headers["Host"] == f"hook.test:{server.server_port}"
    assert (headers["X-Own"], headers["Connection"]) == ("yes", "close")


@pytest.mark.case("IN-01")
def test_the_name_is_resolved_once_so_rebinding_gets_nothing(server: http.server.ThreadingHTTPServer) -> None:
    asked: list[str] = []

    def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    send(server, resolve=rebinding)

    assert asked == ["hook.test"]
    assert len(server.seen) == 1


def test_nothing_is_connected_to_when_the_address_is_forbidden(server: http.server.ThreadingHTTPServer) -> None:
    with pytest.raises(ForbiddenTargetError):
        send(server, guard=Guard.of("10.0.0.0/8"))

    assert server.seen == []


@pytest.mark.case("IN-01")
def test_a_redirect_is_an_answer_and_not_followed(server: http.server.ThreadingHTTPServer) -> None:
    def redirect(handler: Receiver) -> None:
        handler.send_response(307)
        handler.send_header("Location", f"http://127.0.0.1:{server.server_port}/inside")
        handler.end_headers()

    server.answer = redirect

    assert send(server).status == 307
    assert len(server.seen) == 1


def test_a_proxy_of_the_environment_is_not_used(
    server: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert send(server).status == 204


@pytest.mark.case("CP-20")
def test_an_endless_answer_is_cut(server: http.server.ThreadingHTTPServer) -> None:
    def flood(handler: Receiver) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(1000):
                handler.wfile.write(b"x" * 65536)
        except OSError:
            return

    server.answer = flood

    assert len(send(server).body) == LARGEST_ANSWER_BYTES


@pytest.mark.case("CP-20")
def test_an_answer_that_trickles_ends_with_the_time_for_all_of_it(server: http.server.ThreadingHTTPServer) -> None:
    def trickle(handler: Receiver) -> None:
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for number in range(200):
                handler.wfile.write(b"X-%d: y\r\n" % number)
                handler.wfile.flush()
                time.sleep(0.05)
        except OSError:
            return

    server.answer = trickle
    begun = time.monotonic()

    with pytest.raises(DeliveryError) as caught:
        send(server, total_seconds=0.5)

    assert caught.value.code == "timeout"
    # The whole of it would take ten seconds.
    assert time.monotonic() - begun < 8


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200\r\n" + b"a" * 99999]
)
def test_what_is_no_http_is_told_without_its_words(server: http.server.ThreadingHTTPServer, answer: bytes) -> None:
    server.answer = lambda handler: handler.wfile.write(answer)

    with pytest.raises(DeliveryError) as caught:
        send(server)

    assert caught.value.code == "bad_answer"
    assert "SSH" not in caught.value.message


def test_nobody_there_and_no_name_are_told_apart_from_a_refusal() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        url = f"http://hook.test:{port}/"
        with pytest.raises(DeliveryError) as closed:
            post(url, body=b"", headers={}, guard=LOOPBACK, resolve=leads_to("127.0.0.1"))

    def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError("no such host")

    with pytest.raises(DeliveryError) as missing:
        post(url, body=b"", headers={}, guard=LOOPBACK, resolve=unknown)

    assert (closed.value.code, missing.value.code) == ("unreachable", "unreachable")


def test_the_systems_resolver_knows_literal_addresses() -> None:
    assert list(guarded_http.system_resolver("127.0.0.1", 80)) == ["127.0.0.1"]
    with pytest.raises(OSError):
        guarded_http.system_resolver("no-such-host.invalid", 80)


@pytest.fixture
def certificate(tmp_path: object) -> tuple[str, str]:
    """A certificate for hook.test that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hook.test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hook.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = f"{tmp_path}/certificate.pem", f"{tmp_path}/key.pem"
    with open(paths[0], "wb") as file:
        file.write(made.public_bytes(serialization.Encoding.PEM))
    with open(paths[1], "wb") as file:
        plain = serialization.NoEncryption()
        file.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return paths


@pytest.fixture
def tls_server(
    server: http.server.ThreadingHTTPServer, certificate: tuple[str, str]
) -> http.server.ThreadingHTTPServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


def test_tls_is_checked_against_the_name(
    tls_server: http.server.ThreadingHTTPServer, certificate: tuple[str, str]
) -> None:
    trust = ssl.create_default_context(cafile=certificate[0])

    assert send(tls_server, scheme="https", trust=trust).status == 204
    url = f"https://other.test:{tls_server.server_port}/"
    with pytest.raises(DeliveryError) as caught:
        post(url, body=b"", headers={}, guard=LOOPBACK, resolve=leads_to("127.0.0.1"), trust=trust)

    assert caught.value.code == "bad_certificate"


def test_a_certificate_that_nobody_vouches_for_is_refused(tls_server: http.server.ThreadingHTTPServer) -> None:
    with pytest.raises(DeliveryError) as caught:
        send(tls_server, scheme="https")

    assert caught.value.code == "bad_certificate"
    assert tls_server.seen == []


def test_https_to_a_port_without_tls_is_refused(server: http.server.ThreadingHTTPServer) -> None:
    with pytest.raises(DeliveryError) as caught:
        send(server, scheme="https")

    assert caught.value.code in {"bad_tls", "unreachable", "timeout"}
    assert server.seen == []
