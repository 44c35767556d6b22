"""A small OpenID Connect provider on loopback: real HTTP, real signatures, and lies on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT_ID, CLIENT_SECRET = "backupsite", "of-the-client"


class Issuer:
    """`claims` go into the ID token, `info` into the answer of userinfo (the same unless set)."""

    def __init__(self) -> None:
        self.claims: dict[str, Any] = {"sub": "u-1"}
        self.info: dict[str, Any] | None = None
        self.audience, self.issued_by = CLIENT_ID, ""
        self.refusals: list[str] = []
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._codes: dict[str, dict[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def allow(self, address: str) -> dict[str, str]:
        """What the person's browser carries back after it was sent to the address."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        return {"code": code, "state": asked["state"]}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(issuer._read(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self._send(issuer._token({name: values[0] for name, values in parse_qs(body).items()}))

            def _send(self, found: dict[str, Any] | None) -> None:
                data = json.dumps(found or {"error": "invalid_grant"}).encode()
                self.send_response(200 if found else 400)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                pass

        return Handler

    def _read(self, path: str) -> dict[str, Any] | None:
        if path == "/.well-known/openid-configuration":
            names = {"authorization": "authorize", "token": "token", "userinfo": "userinfo"}
            ends = {f"{name}_endpoint": f"{self.url}/{end}" for name, end in names.items()}
            methods = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
            return {"issuer": self.url, "jwks_uri": f"{self.url}/jwks", **ends, **methods}
        return (self.claims if self.info is None else self.info) if path == "/userinfo" else None

    def _token(self, body: dict[str, str]) -> dict[str, Any] | None:
        asked = self._codes.pop(body.get("code", ""), None)
        digest = hashlib.sha256(body.get("code_verifier", "").encode()).digest()
        proof = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if asked is None or (body.get("client_secret"), proof) != (CLIENT_SECRET, asked.get("code_challenge")):
            self.refusals.append("token")
            return None
        if body.get("redirect_uri") != asked["redirect_uri"]:
            self.refusals.append("redirect_uri")
            return None
        now = int(time.time())
        said = {"iss": self.issued_by or self.url, "aud": self.audience, "iat": now, "exp": now + 60}
        token = jwt.encode({**said, **self.claims}, self._key, algorithm="RS256", headers={"kid": "1"})
        return {"access_token": "a", "token_type": "Bearer", "expires_in": 60, "id_token": token}
