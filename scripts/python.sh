#!/usr/bin/env bash
# Prints the first Python >= 3.11 that really runs here. PYTHON=… in the environment wins.
# Version managers leave commands on the path that fail when called, so each candidate is run.
set -euo pipefail

fits='import sys; sys.exit(sys.version_info < (3, 11))'
for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3.14 python3; do
  if path=$(command -v "$candidate") && "$path" -c "$fits" >/dev/null 2>&1; then
    printf '%s\n' "$path"
    exit 0
  fi
done
{
  echo "troth needs Python 3.11 or newer, and found none on the path."
  echo "Install one (Debian 12: apt-get install python3 python3-venv),"
  echo "or name yours: make PYTHON=/path/to/python3.11 …"
} >&2
exit 1
