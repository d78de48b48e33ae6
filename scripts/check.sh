#!/usr/bin/env bash
# All that can be said about the code without running it, and the rules of the house.
# Every step runs even when an earlier one failed, so one look shows all there is to mend.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=${VENV:-.venv}/bin
mkdir -p .cache
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=()

step() { # what it proves, command: silent when all is well
  local name=$1 start=$SECONDS
  shift
  if "$@" </dev/null >"$log" 2>&1; then
    printf 'check: %-16s ok (%ds)\n' "$name" $((SECONDS - start)) >&2
  else
    printf 'check: %-16s FAILED\n' "$name" >&2
    cat "$log" >&2
    failed+=("$name")
  fi
}

step format "$bin/ruff" format --check "$@"
step lint "$bin/ruff" check "$@"
step types "$bin/mypy"
step imports "$bin/lint-imports" --no-logo --cache-dir .cache/import_linter
# Not --quiet: it hides warnings from --strict too, and then a dead link passes.
step docs "$bin/mkdocs" build --strict --site-dir .cache/site
step "house rules" "$bin/python" -m pytest -q tests/unit/test_house.py

if ((${#failed[@]} > 0)); then
  printf 'check: failed: %s\n' "${failed[*]}" >&2
  exit 1
fi
