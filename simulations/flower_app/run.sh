#!/usr/bin/env bash
# The demo federation in Flower, from its start to its table: run.sh [-c "rounds=3 algorithm='fedmd'"] [--out FOLDER]
# This is `kdsim flower` for those who have not put kdsim's environment on the PATH; `run.sh --help` lists the flags.
set -euo pipefail
home=$(cd "$(dirname "$0")/../.." && pwd)  # the checkout, or the folder of packages that kdsim is installed in
export PYTHONPATH="$home${PYTHONPATH:+:$PYTHONPATH}"
for python in ${PYTHON:+"$PYTHON"} "$home/.venv/bin/python" "$home/../../../bin/python" python3 python; do
    if "$python" -c 'import sys, importlib.util as u; sys.exit(not (u.find_spec("flwr") and u.find_spec("typer")))' 2>/dev/null; then
        exec "$python" -m simulations flower "$@"
    fi
done
echo "run.sh: no Python with kdsim's packages was found; run \`make demo\` in the checkout once, or name one with PYTHON=" >&2
exit 1
