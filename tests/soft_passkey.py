"""A passkey in software: makes and signs what a browser with a security key would."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from fido2.cose import ES256
from fido2.utils import websafe_decode, websafe_encode
from fido2.webauthn import Aaguid, AttestationObject, AttestedCredentialData, AuthenticatorData, CollectedClientData

_Flag = AuthenticatorData.FLAG


class SoftPasskey:
    def __init__(self, *, origin: str, credential_id: bytes | None = None) -> None:
        self.origin = origin
        self.credential_id = credential_id or os.urandom(32)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._user_id = ""

    def create(self, options: dict[str, Any], *, verified: bool = False) -> str:
        """What the form sends after navigator.credentials.create."""
        asked = dict(options["publicKey"])
        self._user_id = asked["user"]["id"]
        public = AttestedCredentialData.create(
            Aaguid(b"\0" * 16), self.credential_id, ES256.from_cryptography_key(self._key.public_key())
        )
        data = AuthenticatorData.create(
            _rp_hash(asked["rp"]["id"]), _flags(verified) | _Flag.AT, 0, credential_data=public
        )
        client = self._client_data("webauthn.create", asked["challenge"])
        answer = {
            "clientDataJSON": websafe_encode(client),
            "attestationObject": websafe_encode(AttestationObject.create("none", data, {})),
        }
        return self._told(answer, {"credProps": {"rk": verified}})

    def get(self, options: dict[str, Any], *, verified: bool = True) -> str:
        """What the form sends after navigator.credentials.get."""
        asked = dict(options["publicKey"])
        client = self._client_data("webauthn.get", asked["challenge"])
        data = AuthenticatorData.create(_rp_hash(asked["rpId"]), _flags(verified), 0)
        signature = self._key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        answer = {
            "clientDataJSON": websafe_encode(client),
            "authenticatorData": websafe_encode(data),
            "signature": websafe_encode(signature),
            "userHandle": self._user_id,
        }
        return self._told(answer, {})

    def _client_data(self, kind: str, challenge: str) -> bytes:
        return CollectedClientData.create(type=kind, challenge=websafe_decode(challenge), origin=self.origin)

    def _told(self, answer: dict[str, Any], extensions: dict[str, Any]) -> str:
        name = websafe_encode(self.credential_id)
        told = {"id": name, "rawId": name, "type": "public-key", "response": answer}
        return json.dumps({**told, "clientExtensionResults": extensions})


def _rp_hash(rp_id: str) -> bytes:
    return hashlib.sha256(rp_id.encode()).digest()


def _flags(verified: bool) -> Any:
    return _Flag.UP | (_Flag.UV if verified else _Flag(0))
