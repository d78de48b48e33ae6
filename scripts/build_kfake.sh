#!/usr/bin/env bash
# Builds a Kafka-compatible broker for the tests into .cache/bin/kfake, from the Go modules that
# tests/programs/kfake/go.sum names by their hashes. Needs Go; says so and ends with 3 without it.
set -euo pipefail
cd "$(dirname "$0")/.."

source=tests/programs/kfake
target=$PWD/.cache/bin/kfake
if [[ -x $target && ! $source/main.go -nt $target && ! $source/go.sum -nt $target ]]; then exit 0; fi
if ! command -v go >/dev/null; then
  echo "there is no Go to build a Kafka-compatible broker with" >&2
  exit 3
fi
mkdir -p .cache/bin
# Several test processes may come at once: each builds a file of its own, and the last one stays.
draft=$(mktemp .cache/bin/.kfake.XXXXXX)
trap 'rm -f "$draft"' EXIT
(cd "$source" && GOTOOLCHAIN=local GOFLAGS=-mod=readonly go build -trimpath -o "$OLDPWD/$draft" .) </dev/null
chmod 0755 "$draft"
mv "$draft" "$target"
