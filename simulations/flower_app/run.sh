#!/usr/bin/env bash
# `flwr run` for this app on one machine, with no network: ./run.sh [-c "rounds=3 algorithm='dsfl'"]
# The environment matters when Flower's local SuperLink starts, which then stays: see README.md.
#
# Unlike `flwr run`, this ends with status 1 when the run has failed, and ends after LIMIT seconds at the latest (3600 by
# default). A simulation whose backend cannot start, for instance, would otherwise be reported in a log alone, or wait.
set -euo pipefail
app=$(cd "$(dirname "$0")" && pwd)
limit=${LIMIT:-3600}
export FLWR_TELEMETRY_ENABLED=0                            # no usage reports
export FLWR_DISABLE_UPDATE_CHECK=1                         # no look at PyPI
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1      # use this Python as it is, no `uv sync`
export RAY_USAGE_STATS_ENABLED=0
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0                 # Ray listens on loopback only
neutral=${FLWR_HOME:-$HOME/.flwr}/empty                    # clients import from the SuperLink's folder first, so it has
mkdir -p "$neutral" && cd "$neutral"                       # to be empty; and to stay, as the SuperLink does
log=$(mktemp)

flwr run "$app" --stream --federation-config "num-supernodes=${CLIENTS:-5} client-resources-num-cpus=1" "$@" \
    > >(tee "$log") 2>&1 &
stream=$!
trap 'kill "$stream" 2>/dev/null || true; rm -f "$log"' EXIT
while kill -0 "$stream" 2>/dev/null && [ $SECONDS -lt "$limit" ]; do sleep 0.5; done
run=$(sed -n 's/.*Successfully started run[^0-9]*\([0-9]\{1,\}\).*/\1/p' "$log" | head -n 1)
[ -n "$run" ] || { echo "run.sh: Flower did not start a run; what it says is above" >&2; exit 1; }
if kill -0 "$stream" 2>/dev/null; then
    flwr stop "$run" || true
    echo "run.sh: run $run was stopped: it was not done within $limit seconds (LIMIT)" >&2
    exit 1
fi
listed=$(flwr ls --run-id "$run" --format json)
case "$listed" in
    *'"status": "finished:completed"'*) ;;
    *) echo "run.sh: run $run failed; what it said is above, and Flower says:" >&2
       echo "$listed" | grep '"status' >&2
       exit 1 ;;
esac
