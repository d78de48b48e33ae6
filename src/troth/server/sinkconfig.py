"""Sinks as configured: their settings checked, and what each needs worked out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from troth.core.errors import Invalid
from troth.drivers.sinks import Format, Target
from troth.drivers.sinks.file import parse_path
from troth.drivers.sinks.place import parse_place
from troth.server.reading import Reading
from troth.server.sink_settings import KiB, MiB, SinkSettings
from troth.wire.syslog import LARGEST_HEAD, LARGEST_SURE

MOST = 32
LINES = ("syslog", "file", "nats", "kafka")
"""Drivers that send lines of any format."""


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """One sink, complete. `secret` says where its secret comes from ("" for none), `environment`
    holds the variable that it names, if it names one."""

    driver: str
    target: Target
    types: tuple[str, ...]
    decisions: bool | Literal["denied"]
    from_now: bool
    largest: int
    secret: str
    environment: Mapping[str, str] = field(repr=False)

    @property
    def name(self) -> str:
        """What it is called."""
        return self.target.name


def resolve_sinks(
    sinks: Sequence[SinkSettings], reading: Reading, environ: Mapping[str, str]
) -> tuple[SinkConfig, ...]:
    """All of them; `Invalid` names the sink and the setting that is wrong."""
    if len(sinks) > MOST:
        raise reading.blame("sinks", f"there are {len(sinks)}, and at most {MOST} are fed.")
    names = [sink.name for sink in sinks]
    for name in names:
        if names.count(name) > 1:
            raise reading.blame("sinks", f"there are two with the name {name!r}.")
    return tuple(_resolve(sink, reading, environ) for sink in sinks)


def _resolve(sink: SinkSettings, reading: Reading, environ: Mapping[str, str]) -> SinkConfig:
    try:
        _check_place(sink)
        _check_fields(sink)
        return SinkConfig(
            driver=sink.driver,
            target=_make_target(sink),
            types=tuple(sink.types),
            decisions=sink.decisions,
            from_now=sink.start == "now",
            largest=sink.largest_bytes or _find_largest(sink.driver),
            secret=sink.secret,
            environment=_find_environment(sink, environ),
        )
    except Invalid as error:
        raise reading.blame("sinks", f"{sink.name}: {error.detail}") from error


def _find_largest(driver: str) -> int:
    """What receivers of this kind take as they come, with room for what stands around it."""
    if driver == "syslog":
        return LARGEST_SURE - LARGEST_HEAD
    return MiB - 16 * KiB


def _check_place(sink: SinkSettings) -> None:
    try:
        if sink.driver == "file":
            parse_path(sink.url)
            return
        place = parse_place(sink.driver, sink.url)
    except Invalid as error:
        raise Invalid(f"url: {error.detail}") from error
    if sink.secret and not (place.secure or place.is_local):
        raise Invalid("secret: send it over TLS, or to this machine.")
    if (sink.ca or sink.certificate) and not place.secure:
        raise Invalid("ca and certificate are for TLS, which this url doesn't speak.")


def _check_fields(sink: SinkSettings) -> None:
    if sink.format == "cef" and sink.driver not in LINES:
        raise Invalid(f"format: {sink.driver} takes 'ocsf'; 'cef' is for {', '.join(LINES)}.")
    if bool(sink.certificate) != bool(sink.key):
        raise Invalid("certificate and key belong together.")
    for name in ("ca", "certificate", "key"):
        path = getattr(sink, name)
        if path and not Path(path).is_absolute():
            raise Invalid(f"{name}: {path!r} must be an absolute path.")
    if sink.largest_bytes and sink.largest_bytes < KiB:
        raise Invalid(f"largest_bytes: must be at least {KiB}, or 0 for the usual.")
    if sink.user and not sink.secret:
        raise Invalid("user: it needs a secret beside it.")
    if sink.driver == "splunk" and not sink.secret:
        raise Invalid("secret: Splunk's HTTP Event Collector wants a token.")
    if sink.driver in ("file", "syslog") and sink.secret:
        raise Invalid(f"secret: {sink.driver} has no use for one.")


def _find_environment(sink: SinkSettings, environ: Mapping[str, str]) -> Mapping[str, str]:
    kind, _, rest = sink.secret.partition(":")
    if not sink.secret:
        return {}
    if kind not in ("file", "env", "command") or not rest.strip():
        # The value isn't shown: somebody may have put the secret itself there.
        raise Invalid("secret: must be file:PATH, env:NAME or command:PROGRAM ARGUMENTS.")
    if kind == "file" and not Path(rest).is_absolute():
        raise Invalid("secret: the path after file: must be absolute.")
    if kind != "env":
        return {}
    if not environ.get(rest):
        raise Invalid(f"secret: the environment variable {rest} is not set.")
    return {rest: environ[rest]}


def _make_target(sink: SinkSettings) -> Target:
    return Target(
        name=sink.name,
        url=sink.url,
        format=Format(sink.format),
        user=sink.user,
        authorities=_path(sink.ca),
        certificate=_path(sink.certificate),
        key=_path(sink.key),
        rotate_bytes=sink.rotate_bytes,
        keep_files=sink.keep_files,
    )


def _path(text: str) -> Path | None:
    return Path(text) if text else None
