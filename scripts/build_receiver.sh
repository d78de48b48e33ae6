#!/usr/bin/env bash
# Builds a receiver of events for the tests, tests/programs/NAME, into .cache/bin/NAME: from the Go
# modules that its go.sum names by their hashes. Without Go, or without the modules, it says so and
# ends with 3.
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:?which program of tests/programs}
source=tests/programs/$name
target=.cache/bin/$name
if [[ -x $target && ! $source/main.go -nt $target && ! $source/go.sum -nt $target ]]; then exit 0; fi
if ! command -v go >/dev/null; then
  echo "there is no Go to build tests/programs/$name with" >&2
  exit 3
fi
export GOTOOLCHAIN=local GOFLAGS=-mod=readonly
if ! (cd "$source" && go mod download) </dev/null >&2; then
  echo "the Go modules of tests/programs/$name can't be had" >&2
  exit 3
fi
mkdir -p .cache/bin
# Several test processes may come at once: each builds a file of its own, and the last one stays.
draft=$(mktemp "$PWD/.cache/bin/.$name.XXXXXX")
trap 'rm -f "$draft"' EXIT
(cd "$source" && go build -buildvcs=false -trimpath -o "$draft" .) </dev/null
chmod 0755 "$draft"
mv "$draft" "$target"
