"""Inputs that are nearly right: good ones with a few edits, in bytes, in JSON and in DER.

Noise alone is refused at the first byte; what finds bugs is what a parser believes for a while.
"""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

from troth.issuance.der import encode_element, read_element, read_elements

Edit = tuple[int, int, bytes, int]

_TOKENS = (
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf"),
    *(b"'", b'"', b"\\", b"\n", b"\r\n", b"\r", b"\t", b" ", b":", b"/", b"..", b"%00", b"%ff"),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b"-",
        b"- ",
        b"&a",
        b"*a",
        b"!!x ",
        b"\\u0000",
        b"\\ud800",
        b"9" * 30,
    ),
    *(b"9" * 5_000, b"[" * 3_000, b"1e999", b"-0", b"NaN", b"null", b"true", b"\xe2\x80\xa8"),
)
_PIECES = st.sampled_from(_TOKENS) | st.binary(max_size=8)
BYTE_EDITS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 1 << 16), _PIECES, st.integers(0, 40)), max_size=6
)
"""For `edit_bytes`, where the seed isn't known before a target runs."""


def mutated(*seeds: bytes) -> st.SearchStrategy[bytes]:
    """One of the seeds after up to six edits, or now and then plain noise."""
    edited = st.builds(edit_bytes, st.sampled_from(seeds), BYTE_EDITS)
    return edited | edited | st.binary(max_size=200)


def mutated_text(*seeds: str) -> st.SearchStrategy[str]:
    """The same in characters, lone surrogates among them."""
    edited = st.builds(
        _edit_text,
        st.sampled_from(seeds),
        st.lists(st.tuples(st.integers(0, 1 << 16), st.text(WILD, max_size=4), st.integers(0, 8))),
    )
    return edited | st.text(WILD, max_size=100)


WILD = st.characters(exclude_categories=()) | st.sampled_from("\x00\n\u202e\ud800/.:-%*'\"=\\~@")
"""Every character there is, and more often those that mean something somewhere."""


def _spread(number: int, size: int) -> int:
    """A place below `size`: hypothesis likes small numbers, but bugs aren't all at the front."""
    return (number * 0x9E3779B1 & 0xFFFF_FFFF) * size >> 32


def edit_bytes(seed: bytes, edits: list[Edit]) -> bytes:
    """`seed` after `BYTE_EDITS`."""
    data = bytearray(seed)
    for kind, place, piece, length in edits:
        at = _spread(place, len(data) + 1)
        if kind == 0:
            data[at:at] = piece
        elif kind == 1:
            data[at : at + length] = piece
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3 and at < len(data):
            data[at] ^= 1 << (length % 8)
        elif kind == 4:
            data[at:at] = data[at : at + length] * 3
        else:
            del data[at:]
    return bytes(data)


def _edit_text(seed: str, edits: list[tuple[int, str, int]]) -> str:
    for place, piece, length in edits:
        at = _spread(place, len(seed) + 1)
        seed = seed[:at] + piece + seed[at + length :]
    return seed


# JSON

HUGE = 10**400
_SCALARS = (
    st.sampled_from(
        [
            *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, HUGE, -HUGE, 1.5, 1e308, -0.0),
            *("", "\x00", "a" * 5_000, "a\n", "é", "\ud800", "\u202e", "null", "1", "..", "*"),
            *("9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2027-06-30", "9" * 5_000),
        ]
    )
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
_FLAT = st.lists(_SCALARS, max_size=3) | st.dictionaries(st.text(max_size=4), _SCALARS, max_size=3)
JSON = _SCALARS | _SCALARS | _FLAT | st.lists(_FLAT, max_size=2)
"""Any JSON value, with the numbers and texts that somebody forgets."""

JSON_EDITS = st.tuples(st.integers(0, 1 << 12), st.integers(0, 4), JSON)
"""For `edit_json`."""


def mutated_json(*seeds: Any) -> st.SearchStrategy[Any]:
    """One of the seeds with up to four members replaced, removed, doubled or renamed."""
    edited = st.builds(edit_json, st.sampled_from(seeds), st.lists(JSON_EDITS, max_size=4))
    return edited | edited | JSON


def render_json(value: Any) -> bytes:
    """JSON text, surrogates escaped and integers of any size."""
    return json.dumps(value).encode()


def json_documents(*seeds: Any) -> st.SearchStrategy[bytes]:
    """Texts of mutated values, and mutated texts."""
    return mutated_json(*seeds).map(render_json) | mutated(*map(render_json, seeds))


def edit_json(seed: Any, edits: list[tuple[int, int, Any]]) -> Any:
    """`seed`, of dictionaries and lists, after a list of `JSON_EDITS`."""
    value = deepcopy(seed)
    for place, kind, piece in edits:
        slots = _list_slots(value)
        if not slots:
            return piece
        holder, key = slots[_spread(place, len(slots))]
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[str(piece)[:50]] = holder.pop(key)
        elif kind == 2 and isinstance(holder, list):
            holder.append(deepcopy(holder[key]))
        else:
            holder[key] = piece
    return value


def _list_slots(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        holder = todo.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        found += [(holder, key) for key in keys]
        todo += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    return found


# DER


def mutated_der(*seeds: bytes) -> st.SearchStrategy[bytes]:
    """Seeds with elements changed and all lengths right again, and plain mutated bytes."""
    edit = st.tuples(st.integers(0, 6), st.integers(0, 1 << 12), st.binary(max_size=12))
    edited = st.builds(_edit_der, st.sampled_from(seeds), st.lists(edit, min_size=1, max_size=3))
    return edited | edited | edited | mutated(*seeds)


def _edit_der(seed: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    tree = _read_tree(seed)
    for kind, place, piece in edits:
        nodes = [slot for root in tree for slot in _walk(root)]
        siblings = [tree, *(node[1] for node in nodes if isinstance(node[1], list))]
        holders = [(holder, n) for holder in siblings for n in range(len(holder))]
        if not holders:
            break
        holder, at = holders[_spread(place, len(holders))]
        if kind == 0:
            holder[at][0] = piece[0] if piece else 0x05
        elif kind == 1 or (kind == 6 and isinstance(holder[at][1], list)):
            holder[at][1] = piece
        elif kind == 6:
            holder[at][1] = edit_bytes(holder[at][1], [(1, place, piece, len(piece))])
        elif kind == 2:
            del holder[at]
        elif kind == 3:
            holder.insert(at, deepcopy(holder[at]))
        elif kind == 4:
            other, there = holders[_spread(place + len(piece), len(holders))]
            holder[at] = deepcopy(other[there])
        else:
            holder[at] = [0x30, [holder[at]], b""]
    return b"".join(map(_render_tree, tree))


def _walk(node: list[Any]) -> list[list[Any]]:
    below = node[1] if isinstance(node[1], list) else []
    return [node, *(inner for child in below for inner in _walk(child))]


def _read_tree(data: bytes) -> list[list[Any]]:
    """Elements as [tag, content or elements, prefix]; a bit string's prefix is its first byte."""
    return [_read_node(element.tag, element.content) for element in read_elements(data)]


def _read_node(tag: int, content: bytes) -> list[Any]:
    prefix = content[:1] if tag == 0x03 else b""
    inner = content[len(prefix) :]
    if tag & 0x20 or (tag in (0x03, 0x04) and inner[:1] == b"\x30"):
        try:
            return [tag, _read_tree(inner), prefix]
        except ValueError:
            pass
    return [tag, content, b""]


def _render_tree(node: list[Any]) -> bytes:
    tag, content, prefix = node
    inner = content if isinstance(content, bytes) else b"".join(map(_render_tree, content))
    return encode_element(tag, prefix + inner)


def read_first(der: bytes) -> bytes:
    """The first element inside the outer one: what a certificate's or a request's key signs."""
    return read_element(read_element(der).content).encoding
