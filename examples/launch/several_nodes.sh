#!/usr/bin/env bash
#SBATCH --job-name=latentflow
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#
# Trains on several machines under SLURM; each runs one torchrun, which starts one process for each of its GPUs:
#
#     OUT=/shared/runs/mnist sbatch examples/launch/several_nodes.sh mnist --steps 20000
#
# OUT and the data are on a file system that all machines see. Two minutes before the time is up every process gets
# TERM, and the first one writes a checkpoint. A job that is queued again, or submitted again with the same OUT, goes on
# from it; on another number of machines too, if it divides the parts of the batch.
set -euo pipefail

: "${OUT:?expected the folder of the run, as in OUT=/shared/runs/mnist}"
words=(train "$@" --out "$OUT")
if [[ -e "$OUT/config.json" ]]; then
    words+=(--resume)
fi
# A restart makes a store of its own: a shared one still has the addresses of dead processes (pytorch/pytorch#135712).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
names=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${names%%$'\n'*}
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "${PROCESSES:-gpu}" --max-restarts "${RESTARTS:-3}" \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:29500" \
    -m latentflow_experiments "${words[@]}"
