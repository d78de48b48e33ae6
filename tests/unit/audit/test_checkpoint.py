"""Checkpoints, of other people and of aics-tlog both ways, and what is none."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import aics_tlog
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from troth.audit.checkpoint import (
    Checkpoint,
    open_checkpoint,
    parse_checkpoint,
    parse_size,
    render_checkpoint,
)
from troth.audit.note import ED25519, make_verifier_key, parse_vkey
from troth.core.errors import Invalid
from troth.core.logsize import LARGEST_SIZE

VECTORS = Path(__file__).parents[2] / "vectors" / "tlog"
SOFA = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
"""The example of tlog-checkpoint."""
ROOT = b64encode(bytes(32)).decode()
LINES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40)


def test_the_example_of_the_specification_is_read() -> None:
    found = parse_checkpoint(SOFA)
    assert found.origin == "example.com/behind-the-sofa"
    assert found.size == 20_852_163
    assert found.root.hex().startswith("0ac5186a")
    assert found.extensions == ()
    assert render_checkpoint(found) == SOFA


@given(
    LINES,
    st.integers(0, LARGEST_SIZE),
    st.binary(min_size=32, max_size=32),
    st.lists(LINES, max_size=3),
)
def test_what_is_rendered_is_parsed_again(
    origin: str, size: int, root: bytes, extensions: list[str]
) -> None:
    checkpoint = Checkpoint(origin, size, root, tuple(extensions))
    assert parse_checkpoint(render_checkpoint(checkpoint)) == checkpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"a\n1\n{ROOT}",
        f"a\n1\n{ROOT}\n\n",
        "a\n1\n",
        f"\n1\n{ROOT}\n",
        f"a\n\n{ROOT}\n",
        "a\n1\n\n",
        f"a\n01\n{ROOT}\n",
        f"a\n-1\n{ROOT}\n",
        f"a\n+1\n{ROOT}\n",
        f"a\n1 \n{ROOT}\n",
        f"a\n1_0\n{ROOT}\n",
        f"a\n١\n{ROOT}\n",
        f"a\n{LARGEST_SIZE + 1}\n{ROOT}\n",
        f"a\n{'9' * 5000}\n{ROOT}\n",
        f"a\n1\n{b64encode(bytes(31)).decode()}\n",
        f"a\n1\n{b64encode(bytes(33)).decode()}\n",
        f"a\n1\n{ROOT[:-1]}\n",
        f"a\n1\n{ROOT[:-2]}B=\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("", 1, bytes(32)),
        Checkpoint("a\nb", 1, bytes(32)),
        Checkpoint("a", -1, bytes(32)),
        Checkpoint("a", LARGEST_SIZE + 1, bytes(32)),
        Checkpoint("a", 1, bytes(31)),
        Checkpoint("a", 1, bytes(32), ("",)),
        Checkpoint("a", 1, bytes(32), ("b\nc",)),
    ],
)
def test_what_could_not_be_read_again_isnt_rendered(checkpoint: Checkpoint) -> None:
    with pytest.raises(Invalid):
        render_checkpoint(checkpoint)


def test_sizes() -> None:
    assert parse_size("0") == 0
    assert parse_size(str(LARGEST_SIZE)) == LARGEST_SIZE


def test_a_public_logs_checkpoint_opens_with_the_keys_of_its_witnesses() -> None:
    keys = [parse_vkey(line) for line in (VECTORS / "public.vkeys").read_text().split()]
    data = (VECTORS / "public.txt").read_bytes()
    checkpoint, note, signers = open_checkpoint(data, keys)
    assert checkpoint.origin == keys[0].name
    assert checkpoint.size == 1_432_088_532
    assert signers == tuple(keys)
    assert len(note.signatures) == 5  # the tree head of RFC 6962 is passed over
    with pytest.raises(Invalid, match="doesn't verify"):
        open_checkpoint(data.replace(b"1432088532", b"1432088533"), keys)


def test_a_checkpoint_that_was_signed_with_mldsa_opens() -> None:
    key = parse_vkey((VECTORS / "mldsa44.vkey").read_text().strip())
    data = (VECTORS / "mldsa44.txt").read_bytes()
    checkpoint, _, signers = open_checkpoint(data, [key], "example.com/mldsa-log")
    assert checkpoint.size == 1
    assert signers == (key,)
    for old, new in (
        (b"log\n1\n", b"log\n2\n"),
        (b"mldsa-log\n1", b"mldsa-lot\n1"),
        (b"+zoE", b"AzoE"),
        # ML-DSA cosignatures don't cover such lines: they would look signed.
        (b"bD38=\n", b"bD38=\nextension\n"),
    ):
        assert old in data
        with pytest.raises(Invalid):
            open_checkpoint(data.replace(old, new, 1), [key])


def test_checkpoints_go_to_aics_tlog_and_come_from_it() -> None:
    private = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    key = make_verifier_key("a.example/log", ED25519, private.public_key().public_bytes_raw())
    theirs = aics_tlog.Checkpoint("a.example/log", 7, bytes(range(32)), ("more",))
    signed = aics_tlog.sign_checkpoint(theirs, private, key.name).to_bytes()
    found, _, signers = open_checkpoint(signed, [key], "a.example/log")
    assert (found.size, found.root, found.extensions) == (7, bytes(range(32)), ("more",))
    assert signers == (key,)
    assert aics_tlog.parse_checkpoint(render_checkpoint(found)) == theirs


def test_a_checkpoint_of_another_log_is_refused() -> None:
    key = parse_vkey((VECTORS / "mldsa44.vkey").read_text().strip())
    with pytest.raises(Invalid, match="of the log 'example"):
        open_checkpoint((VECTORS / "mldsa44.txt").read_bytes(), [key], "example.com/other")
