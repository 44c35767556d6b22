"""Descriptions of servers as a hostile hypervisor, or whoever changed a backup's, would write them."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest

from agents.drivers.domains import configuration_for, parse_xml
from engine.errors import EngineError

pytestmark = pytest.mark.case("IN-04")
PLAIN = "<domain><name>a</name><uuid>1</uuid><devices/></domain>"
LAUGHS = "".join(f'<!ENTITY e{number} "{f"&e{number - 1};" * 10}">' for number in range(1, 12))
HOSTILE = {
    "an entity that grows": f'<!DOCTYPE d [<!ENTITY e0 "ha">{LAUGHS}]><domain><name>&e11;</name></domain>',
    "one long entity many times": f'<!DOCTYPE d [<!ENTITY e "{"x" * 50_000}">]><domain>{"&e;" * 50_000}</domain>',
    "a file of the node": '<!DOCTYPE d [<!ENTITY e SYSTEM "file://{path}">]><domain><name>&e;</name></domain>',
    "an address": '<!DOCTYPE d [<!ENTITY e SYSTEM "http://127.0.0.1:1/">]><domain><name>&e;</name></domain>',
    "a parameter entity": '<!DOCTYPE d [<!ENTITY % e SYSTEM "file://{path}"> %e;]><domain/>',
    "a document type elsewhere": '<?xml version="1.0"?>\n<!-- x -->\n<!DOCTYPE d SYSTEM "file://{path}"><domain/>',
    "an entity that nobody declared": "<domain><name>&e;</name></domain>",
    "without an end": "<domain><name>",
    "too long": f"<domain><name>{'x' * 5_000_000}</name></domain>",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("read", [parse_xml, lambda text: configuration_for(text, name="b", disks={})])
def test_it_is_refused_soon_and_small(name: str, read: object, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("geheim")
    text = HOSTILE[name].replace("{path}", str(tmp_path / "secret"))
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(Exception) as caught:
            read(text)  # type: ignore[operator]  # either of the two
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert type(caught.value).__name__ == "ConfigurationError" or isinstance(caught.value, EngineError)
    assert "geheim" not in str(caught.value)
    assert time.process_time() - began < 1 and peak < 16 << 20


def test_what_libvirt_writes_is_read() -> None:
    assert parse_xml(PLAIN).findtext("name") == "a"


def test_names_of_document_types_in_texts_are_no_document_types() -> None:
    """As libvirt writes a `<` within a text."""
    assert parse_xml("<domain><name>&lt;!DOCTYPE&gt;</name></domain>").findtext("name") == "<!DOCTYPE>"
