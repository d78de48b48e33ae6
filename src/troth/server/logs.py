"""How log lines look and where they go: standard error, as text for people or JSON for machines.

structlog's own default prints the local variables of every frame of a traceback; keys and tokens
are among them. So tracebacks here are plain, and libraries' logs take the same way out.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog

from troth.server.settings import Log

LIBRARY_LEVEL = logging.WARNING
"""Libraries speak through `logging`; only what matters to an operator is kept."""


def configure_logs(log: Log, stream: TextIO | None = None) -> None:
    """Set up logging for the whole process, once, before anything else starts.

    `stream` is standard error unless a test brings its own.
    """
    out = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[log.level.upper()]
    text = log.format == "text" or (log.format == "auto" and out.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_choose_renderer(text, out.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    logging.root.handlers = [_Bridge()]
    logging.root.setLevel(max(level, LIBRARY_LEVEL))


def _choose_renderer(text: bool, colors: bool) -> list[Any]:
    if text:
        return [
            structlog.dev.ConsoleRenderer(
                colors=colors, exception_formatter=structlog.dev.plain_traceback
            )
        ]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


class _Bridge(logging.Handler):
    """Hands the records of libraries to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            structlog.get_logger().log(
                record.levelno,
                "library.logged",
                logger=record.name,
                message=record.getMessage().strip(),
                exc_info=record.exc_info,
            )
        except Exception:  # noqa: BLE001 - logging's own rule: a log line never breaks its caller
            self.handleError(record)
