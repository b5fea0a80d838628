#!/usr/bin/env bash
# Fine-tunes on Speech Commands v2; every variable can be set from the environment, arguments are passed on.
#
#   DATA=/data/speech_commands CHECKPOINT=eat_base.pt bash scripts/finetuning_SPCv2.sh
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

DATA=${DATA:-data/speech_commands}           # folder that EAT.prepare speech_commands wrote
CHECKPOINT=${CHECKPOINT:-checkpoints/pretraining_AS2M/checkpoint_last.pt} # to start from
SAVE=${SAVE:-checkpoints/finetuning_SPCv2}   # checkpoints, logs, the configuration as it ran
DEVICES=${DEVICES:-1}                        # GPUs of this machine
BATCH=${BATCH:-$((256 / DEVICES))}           # clips a device

exec fairseq-hydra-train --config-dir "$ROOT/config" --config-name finetuning_SPCv2 \
    common.user_dir="$ROOT/EAT" task.data="$DATA" model.model_path="$CHECKPOINT" checkpoint.save_dir="$SAVE" \
    distributed_training.distributed_world_size="$DEVICES" dataset.batch_size="$BATCH" "$@"
