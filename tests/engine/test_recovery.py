"""The recovery key on paper, and the test of it that shows it to nobody."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.crypto import generate_tenant_key
from engine.errors import EngineError
from engine.recovery import (
    CHALLENGE_SIZE,
    LINE_COUNT,
    LINE_LENGTH,
    ChallengeError,
    RecoveryKey,
    RecoveryKeyError,
    answer_challenge,
    check_line,
    decode_challenge,
    encode_challenge,
    is_answer,
    make_challenge,
)
from tests.engine.support import noise, seeded_bytes

KEY = RecoveryKey(noise(32, "tenant private"), noise(32, "catalogue"))
PAPER = KEY.encode()
PINNED = [  # of the bytes 0 to 63
    "04002 0G30G 2GC1R 81458",
    "0P30D 1R7H0 48J2C A1A53",
    "GQ30C HM6RW 3MF1Y 8114C",
    "8HJ89 964WM 2JAHB 5GPJP",
    "WBSG6 4S36D 1N6RV KGE96",
    "T7CY3 TFHZZ T3MDZ EG6MN",
]
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_SETTINGS = settings(max_examples=200, deadline=None)


def _characters() -> list[str]:
    return list("".join(PAPER.split()))


def test_the_text_on_paper_never_changes() -> None:
    """A key printed years ago must still be read: this is the format, written out."""
    key = RecoveryKey(bytes(range(32)), bytes(range(32, 64)))

    assert key.encode().splitlines() == PINNED
    assert RecoveryKey.decode("\n".join(PINNED)) == key


def test_the_paper_has_six_lines_of_four_groups_of_five() -> None:
    lines = PAPER.splitlines()

    assert len(lines) == LINE_COUNT
    assert all([len(group) for group in line.split(" ")] == [5, 5, 5, 5] for line in lines)


@_SETTINGS
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_every_key_comes_back_from_paper(private: bytes, fingerprint: bytes) -> None:
    key = RecoveryKey(private, fingerprint)

    assert RecoveryKey.decode(key.encode()) == key


def test_a_generated_key_has_the_public_half_of_its_private_one() -> None:
    key = RecoveryKey.generate(catalogue_fingerprint=noise(32), random_bytes=seeded_bytes("generate"))
    other = RecoveryKey.generate(catalogue_fingerprint=noise(32), random_bytes=seeded_bytes("other"))

    assert len(key.tenant_public_key) == 32
    assert key.tenant_public_key != other.tenant_public_key


@pytest.mark.parametrize(
    "typed",
    [
        PAPER.lower(),
        PAPER.replace(" ", ""),
        PAPER.replace(" ", "-"),
        PAPER.replace("\n", " "),
        PAPER.replace("0", "O").replace("1", "l"),
        PAPER.replace("0", "o").replace("1", "I"),
        "# printed on a Monday\n\n  " + PAPER.replace("\n", "\r\n\r\n") + "  \n",
        "".join(PAPER.split()),
    ],
)
def test_typing_habits_are_forgiven(typed: str) -> None:
    assert RecoveryKey.decode(typed) == KEY


@_SETTINGS
@given(st.integers(0, LINE_COUNT * LINE_LENGTH - 1), st.sampled_from(ALPHABET))
def test_a_wrong_character_is_found_with_its_line_and_group(position: int, character: str) -> None:
    typed = _characters()
    if typed[position] == character:
        return
    typed[position] = character

    with pytest.raises(RecoveryKeyError) as caught:
        RecoveryKey.decode("".join(typed))

    assert caught.value.line == position // LINE_LENGTH + 1
    if position % LINE_LENGTH < LINE_LENGTH - 1:
        assert caught.value.group == position % LINE_LENGTH // 5 + 1
    assert "paper" in caught.value.message


@_SETTINGS
@given(st.integers(0, LINE_COUNT * LINE_LENGTH - 2))
def test_two_swapped_neighbours_are_found(position: int) -> None:
    typed = _characters()
    if typed[position] == typed[position + 1]:
        return
    typed[position : position + 2] = [typed[position + 1], typed[position]]

    with pytest.raises(RecoveryKeyError) as caught:
        RecoveryKey.decode("".join(typed))

    assert caught.value.line in {position // LINE_LENGTH + 1, (position + 1) // LINE_LENGTH + 1}


def test_swapped_lines_are_found() -> None:
    lines = PAPER.splitlines()

    with pytest.raises(RecoveryKeyError) as caught:
        RecoveryKey.decode("\n".join([lines[1], lines[0], *lines[2:]]))

    assert "lines 1, 2" in caught.value.message


def test_errors_that_cancel_out_in_every_line_are_found_by_the_checksum() -> None:
    other = RecoveryKey(noise(32, "another"), noise(32, "catalogue")).encode().splitlines()
    mixed = [*PAPER.splitlines()[:2], *other[2:]]
    for place, line in enumerate(mixed, 1):
        check_line(place, line)

    with pytest.raises(RecoveryKeyError, match="checksum"):
        RecoveryKey.decode("\n".join(mixed))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda lines: lines[:5], "100 characters in all"),
        (lambda lines: [*lines[:2], lines[2][:-1], *lines[3:]], "line 3 has 19 characters"),
        (lambda lines: [lines[0] + "7", *lines[1:]], "line 1 has 21 characters"),
        (lambda lines: [*lines[:3], lines[3].replace(lines[3][12], "U"), *lines[4:]], "line 4, group"),
        (lambda lines: [], "0 characters in all"),
        (lambda lines: lines * 100, "too long"),
    ],
)
def test_what_is_no_key_is_refused_with_what_to_do(change, expected: str) -> None:
    with pytest.raises(RecoveryKeyError, match=expected):
        RecoveryKey.decode("\n".join(change(PAPER.splitlines())))


def test_there_is_only_one_text_for_a_key() -> None:
    """The last line's padding bits count as well: set, with a check digit that fits, they are still refused."""
    digits = [ALPHABET.index(character) for character in PAPER.splitlines()[5].replace(" ", "")]
    digits[18] |= 3
    for check in ALPHABET:
        line = "".join(ALPHABET[digit] for digit in digits[:19]) + check
        with pytest.raises(RecoveryKeyError):
            RecoveryKey.decode("\n".join([*PAPER.splitlines()[:5], line]))


def test_a_key_of_a_later_version_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.recovery._VERSION", 2)
    newer = KEY.encode()
    monkeypatch.undo()

    with pytest.raises(RecoveryKeyError, match="newer version") as caught:
        RecoveryKey.decode(newer)

    assert caught.value.code == "recovery_key_version"


@_SETTINGS
@given(st.text(max_size=300) | st.text(alphabet=ALPHABET + " \n-#", max_size=300))
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(RecoveryKeyError):
        RecoveryKey.decode(text)


def test_a_line_is_checked_with_its_place() -> None:
    first, second = PAPER.splitlines()[:2]

    check_line(1, first.lower())
    for place, line in ((1, second), (2, first), (1, first[:-1]), (1, "")):
        with pytest.raises(RecoveryKeyError):
            check_line(place, line)


def test_nothing_of_the_key_is_shown() -> None:
    shown = repr(KEY) + str(KEY)

    assert KEY.tenant_private_key.hex() not in shown
    assert repr(KEY.tenant_private_key) not in shown
    assert not any(line in shown for line in PAPER.splitlines())


@pytest.mark.parametrize(("private", "fingerprint"), [(b"short", bytes(32)), (bytes(32), b"short")])
def test_a_key_of_the_wrong_size_cannot_be_made(private: bytes, fingerprint: bytes) -> None:
    with pytest.raises(RecoveryKeyError):
        RecoveryKey(private, fingerprint)


# --- the test of a key ------------------------------------------------------------------------------------------------


def test_the_holder_of_the_key_answers_the_challenge() -> None:
    challenge, digest = make_challenge(KEY.tenant_public_key, seeded_bytes("challenge"))
    answer = answer_challenge(KEY, decode_challenge(encode_challenge(challenge)))

    assert len(challenge) == CHALLENGE_SIZE
    assert is_answer(answer, digest)
    assert is_answer(answer.lower().replace("-", " ").replace("0", "o").replace("1", "l"), digest)


def test_another_answer_is_none() -> None:
    challenge, digest = make_challenge(KEY.tenant_public_key, seeded_bytes("challenge"))
    answer = answer_challenge(KEY, challenge)
    changed = ("1" if answer[0] == "0" else "0") + answer[1:]

    for wrong in (changed, answer[:-1], answer + "0", "", "?", "é" * 9999):
        assert not is_answer(wrong, digest)


def test_each_challenge_has_its_own_answer() -> None:
    random_bytes = seeded_bytes("challenge")
    answers = {answer_challenge(KEY, make_challenge(KEY.tenant_public_key, random_bytes)[0]) for _ in range(20)}

    assert len(answers) == 20


def test_another_key_cannot_answer() -> None:
    challenge, _ = make_challenge(generate_tenant_key().public, seeded_bytes("challenge"))

    with pytest.raises(ChallengeError, match="another recovery key"):
        answer_challenge(KEY, challenge)


@_SETTINGS
@given(st.binary(max_size=100) | st.binary(min_size=CHALLENGE_SIZE, max_size=CHALLENGE_SIZE))
def test_a_garbage_challenge_is_refused(challenge: bytes) -> None:
    with pytest.raises(ChallengeError):
        answer_challenge(KEY, challenge)


@_SETTINGS
@given(st.text(max_size=200))
def test_a_garbage_challenge_text_is_refused(text: str) -> None:
    with pytest.raises(EngineError):
        decode_challenge(text)


def test_a_public_key_that_is_none_gets_no_challenge() -> None:
    for public in (bytes(32), b"short"):
        with pytest.raises(ChallengeError):
            make_challenge(public, seeded_bytes("challenge"))
