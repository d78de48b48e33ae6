"""Where traces go, as configured; and the same for the local agent."""

from __future__ import annotations

import msgspec

from troth.core.errors import Invalid
from troth.drivers.tracers import Telemetry, check_endpoint
from troth.server.reading import Reading
from troth.server.setting_words import name_environment
from troth.server.settings import Settings


def resolve_telemetry(settings: Settings, reading: Reading) -> Telemetry | None:
    """Where spans go; None if nowhere. `Invalid` with the place of what can't be."""
    given = settings.telemetry
    if not given.otlp_endpoint:
        return None
    names = [name for name in reading.sources if name.startswith("telemetry.otlp_headers")]
    for name in names:
        if given.otlp_headers and reading.sources[name] in reading.open_files:
            raise reading.blame(name, "others may read these headers; run chmod o-r on the file.")
    try:
        endpoint = check_endpoint(given.otlp_endpoint, given.otlp_headers)
    except Invalid as error:
        raise reading.blame("telemetry.otlp_endpoint", error.detail) from error
    return Telemetry(endpoint, given.otlp_headers, given.sample_ratio)


def render_telemetry(telemetry: Telemetry | None) -> dict[str, str]:
    """The same for the local agent: its environment, since arguments are for all to see."""
    if telemetry is None:
        return {}
    values = {
        "telemetry.otlp_endpoint": telemetry.endpoint,
        "telemetry.otlp_headers": msgspec.json.encode(telemetry.headers).decode(),
        "telemetry.sample_ratio": f"{telemetry.sample_ratio:.9f}",
    }
    return {name_environment(name): value for name, value in values.items()}
