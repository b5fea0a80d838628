#!/usr/bin/env bash
# Fine-tunes on AudioSet-2M; every variable can be set from the environment, arguments are passed on.
#
#   DATA=/data/audioset CHECKPOINT=eat_base.pt bash scripts/finetuning_AS2M.sh
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

DATA=${DATA:-data/audioset}                  # folder that EAT.prepare audioset wrote, with both training lists
CHECKPOINT=${CHECKPOINT:-checkpoints/pretraining_AS2M/checkpoint_last.pt} # to start from
SAVE=${SAVE:-checkpoints/finetuning_AS2M}    # checkpoints, logs, the configuration as it ran
DEVICES=${DEVICES:-1}                        # GPUs of this machine
BATCH=${BATCH:-$((96 / DEVICES))}            # clips a device

exec fairseq-hydra-train --config-dir "$ROOT/config" --config-name finetuning_AS2M \
    common.user_dir="$ROOT/EAT" task.data="$DATA" model.model_path="$CHECKPOINT" checkpoint.save_dir="$SAVE" \
    distributed_training.distributed_world_size="$DEVICES" dataset.batch_size="$BATCH" "$@"
