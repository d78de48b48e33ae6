"""A key that opens, and is none that signs here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.files import _DER_KEYS, _KEK, _put, _seal
from troth.core.entropy import SeededEntropy
from troth.core.errors import Unavailable
from troth.drivers.keystores.file import Folder
from troth.drivers.keystores.sealed import SealedKeystore

# All but the P-256 key and the RSA key, which are good ones.
WRONG = (*_DER_KEYS[1:3], *_DER_KEYS[4:], bytes.fromhex("3010020100300506032b656e040404020000"))


# By number: the keys are others in each process, and all must have the same tests.
@pytest.mark.parametrize("content", WRONG, ids=map(str, range(len(WRONG))))
def test_what_is_no_key_that_signs_here_is_said_so(tmp_path: Path, content: bytes) -> None:
    _put(tmp_path / "a.key", _seal(content))
    store = SealedKeystore(Folder(tmp_path, SeededEntropy()), _KEK, SeededEntropy())
    with pytest.raises(Unavailable, match=r"a\.key holds"):
        store.sign("a", b"data")
