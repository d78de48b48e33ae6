"""The command line as another user.

Usage: as_user.py UID ARGUMENTS…. The interpreter's own files may lie where that user can't reach
them, so the process keeps the one capability that lets it read any file; a socket's mode says who
may write, which is not read. Ends with 77 where even that isn't possible.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

from troth.cli.main import main

KEEP_CAPABILITIES = 8  # PR_SET_KEEPCAPS of prctl(2)
VERSION_3 = 0x20080522  # of capset(2)
READ_ANYTHING = 1 << 2  # CAP_DAC_READ_SEARCH of capabilities(7)
UNABLE = 77


def become(uid: int) -> None:
    """Give up root for good, but for reading."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(KEEP_CAPABILITIES, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    header = struct.pack("Ii", VERSION_3, 0)
    sets = struct.pack("6I", READ_ANYTHING, READ_ANYTHING, 0, 0, 0, 0)
    nothing = struct.pack("6I", *[0] * 6)
    if libc.capset(header, sets) != 0 and libc.capset(header, nothing) != 0:
        sys.exit(UNABLE)
    try:
        with open(os.__file__, "rb"):  # access(2) would leave the capability out
            pass
    except OSError:
        sys.exit(UNABLE)


if __name__ == "__main__":
    become(int(sys.argv[1]))
    sys.argv = ["troth", *sys.argv[2:]]
    main()
