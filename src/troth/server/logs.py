"""Logs: structured, one event a line, on standard error."""

from __future__ import annotations

import logging
import sys

import structlog

from troth.server.settings import Log


def configure_logs(settings: Log) -> None:
    """Set up structlog for the process: text on a terminal, JSON lines elsewhere, as configured."""
    text = settings.format == "text" or (settings.format == "auto" and sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    renderer = (
        structlog.dev.ConsoleRenderer()
        if text
        else structlog.processors.JSONRenderer(sort_keys=False)
    )
    errors = [] if text else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *errors,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
