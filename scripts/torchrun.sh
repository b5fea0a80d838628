#!/usr/bin/env bash
# Trains on several machines: start it on each with its own NODE_RANK. fairseq takes rank and world size from torchrun.
#
#   NODES=2 NODE_RANK=0 MASTER_ADDR=first.host DATA=/data/audioset bash scripts/torchrun.sh
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

CONFIG=${CONFIG:-pretraining_AS2M}           # any recipe in config/
DATA=${DATA:-data/audioset}                  # folder with the manifests, the same on every machine
SAVE=${SAVE:-checkpoints/$CONFIG}            # on a file system that all machines share
NODES=${NODES:-2}                            # machines
NODE_RANK=${NODE_RANK:-0}                    # which of them this is
DEVICES=${DEVICES:-8}                        # GPUs of each
MASTER_ADDR=${MASTER_ADDR:-localhost}        # the first machine's name
MASTER_PORT=${MASTER_PORT:-29500}

exec torchrun --nnodes "$NODES" --node_rank "$NODE_RANK" --nproc_per_node "$DEVICES" \
    --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" \
    "$(command -v fairseq-hydra-train)" --config-dir "$ROOT/config" --config-name "$CONFIG" \
    common.user_dir="$ROOT/EAT" task.data="$DATA" checkpoint.save_dir="$SAVE" \
    distributed_training.distributed_world_size=$((NODES * DEVICES)) "$@"
