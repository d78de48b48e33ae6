"""A keystore that is watched: each use of a key is counted and is a span of its trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from troth.core.clock import Clock
from troth.core.errors import TrothError
from troth.core.tracing import Tracer
from troth.drivers.keystores import KeyKind, Keystore

T = TypeVar("T")


class SignatureMeter(Protocol):
    """Counts what the keystore signed."""

    def observe_signatures(self, outcome: str, count: int, seconds: float) -> None:
        """One use of a key: `count` signatures in `seconds`; `outcome` is ``ok`` or a code."""
        ...


@dataclass(frozen=True, slots=True)
class ObservedKeystore:
    """Passes everything on to `inner`; see `Keystore`. Its methods may be called in any thread."""

    inner: Keystore
    clock: Clock
    tracer: Tracer
    meter: SignatureMeter

    def create_key(self, key_ref: str, kind: KeyKind = KeyKind.P256) -> bytes:
        """Make a key."""
        with self.tracer.within("keystore.create_key"):
            return self.inner.create_key(key_ref, kind)

    def public_key(self, key_ref: str) -> bytes:
        """DER SubjectPublicKeyInfo."""
        return self.inner.public_key(key_ref)

    def sign(self, key_ref: str, data: bytes) -> bytes:
        """One signature."""
        return self._sign(1, lambda: self.inner.sign(key_ref, data))

    def sign_all(self, key_ref: str, batch: Sequence[bytes]) -> list[bytes]:
        """A signature for each of `batch`: one span, however many there are."""
        return self._sign(len(batch), lambda: self.inner.sign_all(key_ref, batch))

    def list_keys(self) -> list[str]:
        """All key references."""
        return self.inner.list_keys()

    def delete_key(self, key_ref: str) -> None:
        """Destroy a key."""
        with self.tracer.within("keystore.delete_key"):
            self.inner.delete_key(key_ref)

    def derive_secret(self, purpose: str) -> bytes:
        """Secret bytes for a purpose."""
        with self.tracer.within("keystore.derive_secret"):
            return self.inner.derive_secret(purpose)

    def _sign(self, count: int, sign: Callable[[], T]) -> T:
        began = self.clock.monotonic()
        outcome = "internal"
        with self.tracer.within("keystore.sign") as span:
            span.note(keystore_signatures=count)
            try:
                signed = sign()
                outcome = "ok"
                return signed
            except TrothError as error:
                outcome = error.code
                raise
            finally:
                self.meter.observe_signatures(outcome, count, self.clock.monotonic() - began)
