#!/usr/bin/env bash
# Rewrites the lock files in requirements/ from pyproject.toml.
# Pins that still fit are kept; `UPGRADE=1` moves everything to the newest versions.
# The files name versions and hashes only: where packages come from is the business of
# whoever installs them.
set -euo pipefail
cd "$(dirname "$0")/.."

pip_compile=${LOCK_TOOL:-.venv/bin/pip-compile}
options=(
  --quiet --generate-hashes --allow-unsafe --strip-extras
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options
)
if [[ -n ${UPGRADE:-} ]]; then options+=(--upgrade); fi

export CUSTOM_COMPILE_COMMAND="make lock"
echo "locking what runs beside the tests (requirements/dev.txt)" >&2
"$pip_compile" "${options[@]}" --extra dev --extra demo --output-file requirements/dev.txt pyproject.toml
echo "locking what a server needs (requirements/runtime.txt)" >&2
"$pip_compile" "${options[@]}" --no-annotate --constraint requirements/dev.txt \
  --output-file requirements/runtime.txt pyproject.toml
echo "locking what builds the wheel (requirements/build.txt)" >&2
"$pip_compile" "${options[@]}" --no-annotate --all-build-deps --only-build-deps \
  --constraint requirements/dev.txt --output-file requirements/build.txt pyproject.toml
