#!/usr/bin/env bash
# Trains one task on the GPUs of this machine:
#
#   ./run_pmap_8gpu.sh TASK SIZE [WORLD_SIZE] [SYNC_FREQ] [flags of experiments.train_parallel...]
#   ./run_pmap_8gpu.sh walker-walk 5 8 1 --exp_name=eight
#
# PYTHON chooses the interpreter (default: .venv/bin/python, else python3). A run that was
# killed goes on with the same command and --resume.
set -euo pipefail

usage() {
  sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ $# -ge 2 && $1 != -* && $2 =~ ^[0-9]+$ ]] || usage
task=$1 size=$2
shift 2
world_size=8 sync_freq=1
if [[ ${1:-} =~ ^[0-9]+$ ]]; then world_size=$1; shift; fi
if [[ ${1:-} =~ ^[0-9]+$ ]]; then sync_freq=$1; shift; fi

python=${PYTHON:-}
if [[ -z $python ]]; then
  python=python3
  [[ -x $root/.venv/bin/python ]] && python=$root/.venv/bin/python
fi
# Logs go below the directory that this was called from; the package is this one.
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
device=(--device=cuda)
for flag in "$@"; do [[ $flag == --device=* || $flag == --device ]] && device=(); done
exec "$python" -m experiments.train_parallel "${device[@]}" --task="$task" --model_size="$size" \
  --world_size="$world_size" --sync_freq="$sync_freq" "$@"
