"""Becomes another user and then another program, such as Envoy."""

from __future__ import annotations

import os

from troth.cli.demonstration.programs.life import become, make_parser


def main() -> None:
    """Exec the command that follows the options."""
    parser = make_parser(__doc__)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    become(options.uid)
    os.execv(options.command[0], options.command)  # noqa: S606  (no shell is the point)


if __name__ == "__main__":
    main()
