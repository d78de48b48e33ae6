"""`troth audit`: the log, proved and verified. Each module here adds its commands."""

from __future__ import annotations

from troth.cli import audit_abandon as audit_abandon
from troth.cli import audit_export as audit_export
from troth.cli import audit_holds as audit_holds
from troth.cli import audit_monitor as audit_monitor
from troth.cli import audit_prove as audit_prove
from troth.cli import audit_redact as audit_redact
from troth.cli import audit_search as audit_search
from troth.cli import audit_sinks as audit_sinks
from troth.cli import audit_trace as audit_trace
from troth.cli import audit_verify as audit_verify
from troth.cli.audit_app import app as app
