"""Addresses in answers: none of them opens anything for whoever has it, but the link of an invitation."""

from __future__ import annotations

import re
from typing import Any

import pytest
from drf_spectacular.generators import SchemaGenerator

from backupsite.stack.programs import _SECRETS_OF_ROLE

# A webhook's is the receiver's own; an invitation's works once, for a few days, and is shown to who invites.
KNOWN = {"Webhook.url", "SentInvitation.link"}
_ADDRESS = re.compile(r"(?:^|_)(?:url|uri|link|href|download|signed)s?$")


def answered() -> dict[str, Any]:
    found = SchemaGenerator().get_schema(request=None, public=True)["components"]["schemas"]
    return {name: schema for name, schema in found.items() if not name.endswith("Request")}


@pytest.mark.case("AZ-22")
def test_every_address_that_an_answer_may_hold_is_known() -> None:
    """Who adds an address for a download comes by here: it is to be bound to its caller, good once, and for minutes."""
    found = {
        f"{name}.{field}"
        for name, schema in answered().items()
        for field, value in schema.get("properties", {}).items()
        if _ADDRESS.search(field) or (value.get("format") == "uri" and field not in {"next", "previous"})
    }

    assert found == KNOWN


@pytest.mark.case("AZ-22")
def test_the_process_that_answers_can_sign_no_address_of_a_vault() -> None:
    assert not {"signer", "keeper", "provisioner", "copier", "reaper", "master_key"} & set(_SECRETS_OF_ROLE["web"])
