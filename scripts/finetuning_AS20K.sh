#!/usr/bin/env bash
# Fine-tunes on AudioSet-20K; every variable can be set from the environment, arguments are passed on.
#
#   DATA=/data/audioset CHECKPOINT=eat_base.pt bash scripts/finetuning_AS20K.sh
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

DATA=${DATA:-data/audioset}                  # folder that EAT.prepare audioset wrote from the balanced list
CHECKPOINT=${CHECKPOINT:-checkpoints/pretraining_AS2M/checkpoint_last.pt} # to start from
SAVE=${SAVE:-checkpoints/finetuning_AS20K}   # checkpoints, logs, the configuration as it ran
DEVICES=${DEVICES:-1}                        # GPUs of this machine
BATCH=${BATCH:-$((48 / DEVICES))}            # clips a device

exec fairseq-hydra-train --config-dir "$ROOT/config" --config-name finetuning_AS20K \
    common.user_dir="$ROOT/EAT" task.data="$DATA" model.model_path="$CHECKPOINT" checkpoint.save_dir="$SAVE" \
    distributed_training.distributed_world_size="$DEVICES" dataset.batch_size="$BATCH" "$@"
