"""Logs of the long-running commands: structured, one event a line, on standard error."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

from troth.core.logwords import add_words

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "text", "json"]


def configure_logs(level: str, form: str) -> None:
    """Set up structlog for this process.

    `level` is debug, info, warning or error; `form` is text, json, or auto: text on a terminal
    and JSON lines elsewhere.
    """
    # What a driver says by itself isn't JSON, and what matters of it is raised.
    for name in ("psycopg", "aiokafka", "nats"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer = (
        # Its own default shows each frame's local variables: keys and tokens are among them.
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if text
        else structlog.processors.JSONRenderer(sort_keys=False)
    )
    errors = [] if text else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_words,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *errors,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
