"""What a store cannot do, in words: the probe finds it, pages and the API say it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

LACKING: Mapping[str, str] = {
    "conditional_create": (
        "The store ignores If-None-Match: an upload that is sent twice leaves a second version. The one that was "
        "committed is known by its id and stays the one that is read; the second is told as an alarm."
    ),
    "presigned_replay_refused": (
        "An upload that was granted can be sent again as long as its grant lasts: it can lay the same bytes over "
        "themselves, and nothing else."
    ),
    "unsigned_headers_refused": "The store takes headers that were not signed; those that protect a backup are signed.",
    "multipart_keeps_lock": "The store drops locks of multipart uploads; the service never makes any.",
    "checks_sha256": "The store does not compare SHA-256; it compares MD5, and the service hashes what it reads.",
    "checks_md5": "The store does not compare MD5; it compares SHA-256.",
}


def lacking(capabilities: Mapping[str, bool]) -> list[str]:
    """One sentence for each capability that the last probe did not find. What was not tried is not said."""
    return [sentence for name, sentence in LACKING.items() if capabilities.get(name) is False]
