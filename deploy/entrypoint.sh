#!/bin/sh
# What a container runs: `tessera download ...` and the like as given, anything else as flags of `tessera serve`.
set -eu
case "${1:-}" in
    serve | download | info | doctor | config) exec tessera "$@" ;;
    *) exec tessera serve "$@" ;;
esac
