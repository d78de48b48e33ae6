"""A program that speaks no protocol: it reads PEM files, and reads them again on SIGHUP.

Usage: reader.py FOLDER PID_FILE UID. It becomes that user first, so it sees what the user may see.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import sys
import time
from pathlib import Path
from typing import Any


def tell(event: str, **facts: Any) -> None:
    """One line in one write."""
    os.write(1, json.dumps({"event": event, "at": time.monotonic(), **facts}).encode() + b"\n")


def read_files(folder: Path) -> dict[str, Any]:
    """What is there, and whether certificate and key belong together and lead to the roots."""
    names = sorted(path.name for path in (folder / "current").iterdir())
    if "svid_key.pem" not in names:
        return {"names": names, "usable": False}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "svid.pem", folder / "svid_key.pem")  # raises on a mismatch
    context.load_verify_locations(folder / "bundle.pem")
    context.load_verify_locations(folder / "crl.pem")
    stats = context.cert_store_stats()
    mine = (folder / "svid.pem").read_text()
    return {"names": names, "usable": True, "stats": stats, "certificate": mine}


def main() -> None:
    """Read at every signal, for ever."""
    folder, pid_file, uid = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    pid_file.write_text(f"{os.getpid()}\n")
    if os.getuid() != uid:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    tell("ready")
    while True:
        signal.sigwait({signal.SIGHUP})
        try:
            tell("reload", **read_files(folder))
        except (OSError, ssl.SSLError) as error:
            tell("broken", reason=str(error))


if __name__ == "__main__":
    main()
