"""Signed notes (C2SP signed-note): a text, and below it lines of signatures by named keys.

Checkpoints of logs are such notes. Whoever isn't known is passed over, so a note collects
signatures of witnesses without any reader having to know all of them. What a key's kind means, and
what it signs, stands in `troth.audit.cosignature`.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from troth.core.errors import Invalid

ED25519 = 0x01
"""Ed25519 over the note's text (signed-note, "Signature types")."""
COSIGNATURE_ED25519 = 0x04
"""Ed25519 over a checkpoint and a time (tlog-cosignature)."""
COSIGNATURE_MLDSA44 = 0x06
"""ML-DSA-44 over the cosigner's name, a time and a tree (tlog-cosignature)."""
PUBLIC_SIZES = {ED25519: 32, COSIGNATURE_ED25519: 32, COSIGNATURE_MLDSA44: 1312}
"""Bytes of the raw public key, for each kind that is understood here."""

KEY_ID_SIZE = 4
LARGEST_NOTE = 1 << 20
MOST_SIGNATURES = 64
"""Signatures of a note: readers must take 16 at least (signed-note, "Format")."""
LONGEST_NAME = 255
"""Bytes of a key's name: an ML-DSA-44 cosignature has one byte for the length of it."""

_DASH = "—"
_LONGEST_VKEY = 4096
_LOWEST_PRINTABLE = " "
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key, under the name that its signatures bear; `public` is raw (RFC 8032, or FIPS
    204)."""

    name: str
    kind: int
    public: bytes

    @property
    def key_id(self) -> bytes:
        """What tells signatures of this key and kind from others of the same name: 4 bytes, and
        nothing that proves anything."""
        hashed = self.name.encode() + b"\n" + bytes([self.kind]) + self.public
        return sha256(hashed).digest()[:KEY_ID_SIZE]

    def render(self) -> str:
        """The verifier key ("vkey") as text: name, key id in hexadecimal, kind and public key."""
        public = b64encode(bytes([self.kind]) + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{public}"


@dataclass(frozen=True, slots=True)
class Signature:
    """A line below a note; `value` is what the key made, and for cosignatures starts with its
    time."""

    name: str
    key_id: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A text that ends with a newline, and its signatures. Nothing is verified yet."""

    text: str
    signatures: tuple[Signature, ...]


def parse_vkey(text: str) -> VerifierKey:
    """The key that a verifier key names (signed-note, "Verifier keys").

    `Invalid` if it has another form, a key id that isn't the key's, or a kind that isn't known.
    """
    name, _, rest = text.partition("+") if len(text) <= _LONGEST_VKEY else ("", "", "")
    key_id, plus, public = rest.partition("+")
    if not plus or len(key_id) != 2 * KEY_ID_SIZE or not _HEX.issuperset(key_id):
        raise Invalid(
            f"{text[:80]!r} is no verifier key: it is a name, eight hexadecimal digits and a key in"
            " base64, with a plus sign between them."
        )
    material = decode_base64(public)
    key = make_verifier_key(name, material[0] if material else 0, material[1:])
    if key.key_id.hex() != key_id:
        raise Invalid(
            f"The verifier key of {name!r} has the key id {key_id}, and its content has"
            f" {key.key_id.hex()}: it was cut off or altered. Copy the whole of it."
        )
    return key


def make_verifier_key(name: str, kind: int, public: bytes) -> VerifierKey:
    """The key of a name; `Invalid` if the name can't be one, or no key of that kind is like it."""
    check_name(name)
    size = PUBLIC_SIZES.get(kind)
    if size is None:
        raise Invalid(
            f"The key of {name!r} is of kind 0x{kind:02x}: use 0x01 (Ed25519), 0x04 or 0x06"
            " (cosignatures with Ed25519 or ML-DSA-44)."
        )
    if len(public) != size:
        raise Invalid(f"The key of {name!r} has {len(public)} bytes; its kind has {size}.")
    return VerifierKey(name, kind, public)


def raw_public(spki: bytes) -> bytes:
    """The raw public key in a SubjectPublicKeyInfo (DER) of Ed25519 or ML-DSA-44 (RFC 8410, 9881).

    Raises `Invalid` for any other.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    from troth.core.x509 import UNREADABLE

    try:
        key = load_der_public_key(spki)
    except UNREADABLE as error:
        raise Invalid("That is no public key that can be read.") from error
    if not isinstance(key, Ed25519PublicKey | MLDSA44PublicKey):
        raise Invalid("Notes are signed with Ed25519 or ML-DSA-44, and that key is another.")
    return key.public_bytes_raw()


def parse_note(data: bytes) -> Note:
    """The note in these bytes. `Invalid` if they are none, or too large.

    The text ends at the last empty line; everything below it is signatures.
    """
    text = _decode(data)
    body, gap, signatures = text.rpartition("\n\n")
    if not gap:
        raise Invalid("The note has no empty line between its text and its signatures.")
    return Note(body + "\n", _parse_lines(signatures))


def render_note(note: Note) -> bytes:
    """The note's bytes; `Invalid` if `parse_note` wouldn't take them."""
    if not note.text.endswith("\n"):
        raise Invalid("A note's text ends with a newline.")
    if not 0 < len(note.signatures) <= MOST_SIGNATURES:
        raise Invalid(f"A note has 1 to {MOST_SIGNATURES} signatures.")
    text = f"{note.text}\n{''.join(map(render_signature, note.signatures))}"
    _check_text(text)
    return text.encode()


def render_signature(signature: Signature) -> str:
    """The line below a note, with its newline."""
    check_name(signature.name)
    value = b64encode(signature.key_id + signature.value).decode()
    return f"{_DASH} {signature.name} {value}\n"


def parse_signatures(data: bytes) -> tuple[Signature, ...]:
    """Lines of signatures without a note, at least one: what a witness answers."""
    return _parse_lines(_decode(data))


def verify_note(note: Note, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
    """Those of the known `keys` that signed the note, in their order.

    Signatures of others are passed over. Raises `Invalid` if one of a known key doesn't verify, or
    none of them signed (signed-note, "Signatures").
    """
    from troth.audit.cosignature import verify_signature  # stands above notes

    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        if known.setdefault((key.name, key.key_id), key) != key:
            raise Invalid(f"Two different keys of {key.name!r} have the same key id: keep one.")
    signed = set()
    for signature in note.signatures:
        found = known.get((signature.name, signature.key_id))
        if found is not None:
            verify_signature(found, note.text, signature.value)
            signed.add(found)
    if not signed:
        raise Invalid("None of the keys that are known here signed the note.")
    return tuple(key for key in known.values() if key in signed)


def merge_signatures(note: Note, signatures: Iterable[Signature]) -> Note:
    """The note with these signatures below its own; of one key, the one that is there stays."""
    held = {(one.name, one.key_id): one for one in note.signatures}
    fresh = {(one.name, one.key_id): one for one in signatures}
    added = (one for key, one in fresh.items() if key not in held)
    return Note(note.text, (*note.signatures, *added))


def check_name(name: str) -> str:
    """`name` if a key may have it: not empty, no spaces of any kind, no plus sign, no control
    characters, 255 bytes at most (signed-note, "Format")."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    odd = any(one.isspace() or one == "+" or one < _LOWEST_PRINTABLE for one in name)
    if odd or not 0 < size <= LONGEST_NAME:
        raise Invalid(
            f"{name[:80]!r} can't be a key's name: use 1 to {LONGEST_NAME} bytes without spaces and"
            " plus signs, such as example.com/log."
        )
    return name


def decode_base64(text: str) -> bytes:
    """The bytes of canonical base64 with padding (RFC 4648, section 4): only what they would be
    rendered as again."""
    try:
        found = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid("Something isn't base64 that should be.") from error
    if b64encode(found).decode() != text:
        raise Invalid("Something is base64, but not in its canonical form with padding.")
    return found


def _decode(data: bytes) -> str:
    if len(data) > LARGEST_NOTE:
        raise Invalid(f"The note is larger than {LARGEST_NOTE} bytes.")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Invalid("The note isn't UTF-8.") from error
    _check_text(text)
    return text


def _check_text(text: str) -> None:
    if any(one < _LOWEST_PRINTABLE and one != "\n" for one in text):
        raise Invalid("The note has control characters other than newlines.")


def _parse_lines(text: str) -> tuple[Signature, ...]:
    # Not `splitlines`, which also ends lines at characters that a name may have.
    *lines, rest = text.split("\n")
    if rest or not 0 < len(lines) <= MOST_SIGNATURES:
        raise Invalid(f"Below a note are 1 to {MOST_SIGNATURES} signatures, each a whole line.")
    return tuple(map(_parse_line, lines))


def _parse_line(line: str) -> Signature:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != _DASH:
        raise Invalid("A signature's line is a dash, a key's name and base64, with spaces between.")
    value = decode_base64(parts[2])
    if len(value) <= KEY_ID_SIZE:
        raise Invalid("A signature is shorter than any signature.")
    return Signature(check_name(parts[1]), value[:KEY_ID_SIZE], value[KEY_ID_SIZE:])
