#!/usr/bin/env bash
# One process a node, eight GPUs each; submit with
#   sbatch docs/examples/slurm_train.sh walker-walk 317 --exp_name=two-nodes
# and, after a node has failed, the same with --resume.
#SBATCH --job-name=specmpc
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=48:00:00
#SBATCH --requeue
set -euo pipefail

task=$1 size=$2
shift 2
# JAX gives a SLURM task one GPU unless it is told of all of them.
export JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7
# Environments render without a screen.
export MUJOCO_GL=egl
srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -m experiments.train_parallel \
  --device=cuda --task="$task" --model_size="$size" --world_size=$((8 * SLURM_NNODES)) "$@"
