#!/bin/sh
# `flwr run` for this app on one machine, with no network: ./run.sh [-c "rounds=3 algorithm='dsfl'"]
# The environment matters when Flower's local SuperLink starts, which then stays: see README.md.
set -eu
app=$(cd "$(dirname "$0")" && pwd)
export FLWR_TELEMETRY_ENABLED=0                            # no usage reports
export FLWR_DISABLE_UPDATE_CHECK=1                         # no look at PyPI
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1      # use this Python as it is, no `uv sync`
export RAY_USAGE_STATS_ENABLED=0
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0                 # Ray listens on loopback only
cd "$(mktemp -d)"                                          # neutral: clients import from there first
exec flwr run "$app" --stream \
    --federation-config "num-supernodes=${CLIENTS:-5} client-resources-num-cpus=1" "$@"
