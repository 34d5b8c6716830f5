#!/usr/bin/env bash
# A deployment on this machine: one SuperLink, three SuperNodes, a short run of DS-FL, and the end of all of them.
#
#   local_deployment.sh [--tls] [--rounds N] [--results DIR] [--timeout SECONDS] [-c "key=value ..."]
#
# Everything listens on 127.0.0.1, on ports that are free, with Flower's state in a folder of its own; nothing is left
# behind but the results. --tls: certificates and node keys are made, and only registered nodes are let in.
# Exit status: 0 if the run is over, complete and without a failed client; 1 if not; 2 for wrong arguments.
# Every message starts a fresh Python on its node: reckon with 10 to 40 seconds a round.
set -euo pipefail
set -m  # each job is a process group of its own, so that its children can be ended with it

app=$(cd "$(dirname "$0")" && pwd)
rounds=3 results="" limit=600 tls="" nodes=3 more=()
wrong() { echo "local_deployment.sh: $1; see the top of $0" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case "$1" in
        --tls) tls=yes; shift; continue ;;
        --rounds | --results | --timeout | -c) [ $# -gt 1 ] || wrong "$1 needs a value" ;;
        *) wrong "unknown argument $1" ;;
    esac
    case "$1" in
        --rounds) rounds=$2 ;;
        --results) results=$2 ;;
        --timeout) limit=$2 ;;
        -c) more+=(-c "$2") ;;
    esac
    shift 2
done
[[ $rounds =~ ^[1-9][0-9]*$ && $limit =~ ^[1-9][0-9]*$ ]] || wrong "--rounds and --timeout are whole numbers above 0"
home=$(cd "$app/../.." && pwd)  # the checkout, or the folder of packages that kdsim is installed in
for python in ${PYTHON:+"$PYTHON"} "$home/.venv/bin/python" "$home/../../../bin/python" python3 python; do
    "$python" -c 'import sys, importlib.util as u; sys.exit(not u.find_spec("flwr"))' 2>/dev/null && break
done
PATH="$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH"
export PYTHONPATH="$home${PYTHONPATH:+:$PYTHONPATH}"
for tool in flwr flower-superlink flower-supernode; do
    command -v "$tool" >/dev/null || { echo "local_deployment.sh: no $tool beside $python; run \`make demo\` in the checkout once, or name a Python with PYTHON=" >&2; exit 1; }
done

export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
work=$(mktemp -d "${TMPDIR:-/tmp}/kdsim-deployment.XXXXXX")
results=${results:-$(mktemp -d "${TMPDIR:-/tmp}/kdsim-results.XXXXXX")}
case "$results" in /*) ;; *) results=$PWD/$results ;; esac  # the server runs in a folder of its own
leaders=()

# offspring PID...: these processes and all that come from them, also those that Flower gives a session of their own
offspring() {
    ps -eo pid=,ppid= | awk -v roots="$*" '
        BEGIN { n = split(roots, given, " "); for (i = 1; i <= n; i++) mine[given[i]] }
        { parent[$1] = $2 }
        END { do { more = 0; for (p in parent) if (!(p in mine) && parent[p] in mine) { mine[p]; more = 1 } } while (more)
              for (p in mine) print p }'
}
finish() {
    status=$?
    trap - EXIT INT TERM
    local all=() leader process
    if [ ${#leaders[@]} -gt 0 ]; then
        disown -a  # else bash tells of every process that it is ended
        read -r -d '' -a all < <(offspring "${leaders[@]}") || true
        for leader in "${leaders[@]}"; do kill -TERM "$leader" 2>/dev/null || true; done
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            ps -o stat= -p "$(IFS=,; echo "${all[*]}")" | grep -qv '^Z' || break  # those that are dead need no waiting for
            sleep 0.5
        done
        for leader in "${leaders[@]}"; do kill -KILL -- "-$leader" 2>/dev/null || true; done
        for process in "${all[@]}"; do kill -KILL "$process" 2>/dev/null || true; done
    fi
    if [ "$status" -ne 0 ]; then
        echo "local_deployment.sh: failed; the last lines of its logs, from $work:" >&2
        tail -n 15 "$work"/*.log >&2 || true
    else
        rm -rf "$work"
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# start NAME COMMAND...: in the background, with a FLWR_HOME and a log of its own, from a folder without Python files
start() {
    local name=$1; shift
    mkdir -p "$work/$name"
    (cd "$work/$name" && FLWR_HOME="$work/$name" exec "$@") >"$work/$name.log" 2>&1 </dev/null &
    leaders+=("$!")
}
# until_there WHAT SECONDS COMMAND...: wait until the command succeeds
until_there() {
    local what=$1 end=$((SECONDS + $2)); shift 2
    until "$@" 2>/dev/null; do
        [ $SECONDS -lt $end ] || { echo "local_deployment.sh: no $what in time" >&2; exit 1; }
        sleep 0.5
    done
}
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

read -r port ports <<<"$("$python" -c "
import socket
places = [socket.create_server(('127.0.0.1', 0)) for _ in range($nodes + 1)]
print(*(place.getsockname()[1] for place in places))")"
link=(--insecure) node=(--insecure) address="insecure = true"
if [ -n "$tls" ]; then
    keys=$work/keys; mkdir "$keys"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:secp384r1 -nodes -days 2 -subj "/CN=kdsim test CA" \
        -addext basicConstraints=critical,CA:TRUE -keyout "$keys/ca.key" -out "$keys/ca.crt" 2>/dev/null
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:secp384r1 -nodes -subj "/CN=localhost" \
        -keyout "$keys/server.key" -out "$keys/server.csr" 2>/dev/null
    openssl x509 -req -in "$keys/server.csr" -CA "$keys/ca.crt" -CAkey "$keys/ca.key" -CAcreateserial -days 2 \
        -extfile <(echo "subjectAltName=DNS:localhost,IP:127.0.0.1") -out "$keys/server.pem" 2>/dev/null
    link=(--ssl-ca-certfile "$keys/ca.crt" --ssl-certfile "$keys/server.pem" --ssl-keyfile "$keys/server.key" --enable-supernode-auth)
    node=(--root-certificates "$keys/ca.crt")
    address="root-certificates = \"$keys/ca.crt\""
fi
export FLWR_HOME=$work/cli
mkdir -p "$FLWR_HOME" "$work/empty"
printf '[superlink]\ndefault = "local-deployment"\n\n[superlink.local-deployment]\naddress = "127.0.0.1:%s"\n%s\n' \
    "$port" "$address" >"$FLWR_HOME/config.toml"
cd "$work/empty"

start superlink flower-superlink "${link[@]}" --host 127.0.0.1 --port "$port"
until_there "SuperLink on port $port" 60 listens "$port"
number=0
for own in $ports; do
    proof=()
    if [ -n "$tls" ]; then
        ssh-keygen -q -t ecdsa -b 384 -N "" -f "$keys/node$number"
        flwr supernode register "$keys/node$number.pub" local-deployment >>"$work/register.log" 2>&1
        proof=(--auth-supernode-private-key "$keys/node$number")
    fi
    start "node$number" flower-supernode "${node[@]}" ${proof[@]+"${proof[@]}"} --superlink "127.0.0.1:$port" --port "$own" \
        --node-config "partition-id=$number num-partitions=$nodes"
    number=$((number + 1))
done
echo "SuperLink on 127.0.0.1:$port, $nodes SuperNodes, ${tls:+TLS and node keys, }state in $work"

flwr run "$app" local-deployment --stream -c "clients=$nodes rounds=$rounds results='$results'" \
    ${more[@]+"${more[@]}"} >"$work/run.log" 2>&1 </dev/null &
run=$!
leaders+=("$run")
end=$((SECONDS + limit))
while kill -0 "$run" 2>/dev/null; do  # `flwr run` ends with status 0 even if the run has failed
    [ $SECONDS -lt $end ] || { echo "local_deployment.sh: not done within $limit seconds" >&2; exit 1; }
    sleep 1
done
flwr ls local-deployment --format json >"$work/runs.json" 2>"$work/ls.log" </dev/null
"$python" - "$work/runs.json" "$results" "$rounds" <<'CHECK'
import json, pathlib, sys

runs, results, rounds = json.load(open(sys.argv[1])), pathlib.Path(sys.argv[2]), int(sys.argv[3])
states = [run["status"] for run in runs["runs"]]
if states != ["finished:completed"]:
    sys.exit(f"local_deployment.sh: the run ended as {states}")
result = json.loads((results / "result.json").read_text())
print(json.dumps({key: result[key] for key in ("algorithm", "rounds", "failed", "rejected", "metrics")}))
if (result["rounds"], result["failed"], result["rejected"]) != (rounds, 0, 0):
    sys.exit("local_deployment.sh: not all rounds were complete")
print(f"results in {results}")
CHECK
