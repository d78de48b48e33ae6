#!/usr/bin/env bash
# Prints the first Python >= 3.11 that really runs here. With PYTHON=… in the
# environment, that one or none. Version managers leave commands on the path that fail when
# called, so each candidate is run.
set -euo pipefail

# Root's workloads run under other users, in the tests and in the demo: a Python inside root's
# home is of no use to them, so one that everybody may run comes first.
runs() {
  if [[ ${everybody:-} ]]; then
    setpriv --reuid=65534 --regid=65534 --clear-groups "$1" -c "$fits" >/dev/null 2>&1
  else
    "$1" -c "$fits" >/dev/null 2>&1
  fi
}

fits='import sys; sys.exit(sys.version_info < (3, 11))'
candidates=(python3.11 python3.12 python3.13 python3.14 python3 /usr/bin/python3)
passes=("")
if [[ ${PYTHON:-} ]]; then
  candidates=("$PYTHON")
elif [[ $(id -u) == 0 ]]; then
  passes=(yes "")
fi
for everybody in "${passes[@]}"; do
  for candidate in "${candidates[@]}"; do
    if path=$(command -v "$candidate") && runs "$path"; then
      printf '%s\n' "$path"
      exit 0
    fi
  done
done
{
  echo "troth needs Python 3.11 or newer, and ${PYTHON:-nothing on the path} is none."
  echo "Install one (Debian 12: apt-get install python3 python3-venv),"
  echo "or name yours: make PYTHON=/path/to/python3.11 …"
} >&2
exit 1
