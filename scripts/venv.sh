#!/usr/bin/env bash
# Makes .venv and puts into it exactly what requirements/dev.txt names, by hash, and troth
# itself, editable. Make calls it only when the lock file or pyproject.toml has changed.
set -euo pipefail
cd "$(dirname "$0")/.."

export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PROGRESS_BAR=off
venv=${VENV:-.venv}
pip=("$venv/bin/python" -m pip --no-input)
install=("${pip[@]}" install --root-user-action=ignore)

fits='import sys; sys.exit(sys.version_info < (3, 11))'
if ! "$venv/bin/python" -c "$fits" 2>/dev/null || ! "${pip[@]}" --version >/dev/null 2>&1; then
  python=$(scripts/python.sh)
  echo "making $venv with $("$python" --version)" >&2
  if ! "$python" -m venv --clear "$venv" >/dev/null; then
    echo "could not make a virtual environment: install python3-venv and try again" >&2
    exit 1
  fi
fi

packages=$(grep -c '^[a-z0-9].*==' requirements/dev.txt)
echo "installing $packages packages from requirements/dev.txt (about a minute the first time)" >&2
"${install[@]}" --require-hashes -r requirements/dev.txt </dev/null | awk -v of="$packages" '
  /^Collecting / && ++n % 25 == 0 { print "  fetched " n " of " of; fflush() }
  /^Installing collected/ { print "  unpacking"; fflush() }
' >&2
# Says it needs Python 3.12 and works with 3.11: what our log is compared with, in tests alone.
"${install[@]}" --quiet --no-deps --ignore-requires-python --require-hashes \
  -r requirements/interop.txt </dev/null
echo "installing troth itself" >&2
"${install[@]}" --quiet --no-deps --no-build-isolation -e . </dev/null
