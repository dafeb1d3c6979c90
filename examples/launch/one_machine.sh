#!/usr/bin/env bash
# Trains in several processes of one machine, one for each GPU, by torchrun:
#
#     OUT=runs/mnist examples/launch/one_machine.sh mnist --steps 20000
#
# PROCESSES sets another number, also on a machine without a GPU. If a process dies, all start again from the last
# checkpoint, at most RESTARTS times. Run it again with the same OUT to go on with a run that was stopped.
set -euo pipefail

: "${OUT:?expected the folder of the run, as in OUT=runs/mnist}"
words=(train "$@" --out "$OUT")
if [[ -e "$OUT/config.json" ]]; then
    words+=(--resume)
fi
# A restart makes a store of its own: a shared one still has the addresses of dead processes (pytorch/pytorch#135712).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec torchrun --standalone --nproc-per-node "${PROCESSES:-gpu}" --max-restarts "${RESTARTS:-3}" \
    -m latentflow_experiments "${words[@]}"
