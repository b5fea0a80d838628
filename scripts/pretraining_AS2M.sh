#!/usr/bin/env bash
# Pre-trains EAT-base (or -large) on AudioSet-2M; every variable can be set from the environment.
#
#   DATA=/data/audioset DEVICES=4 bash scripts/pretraining_AS2M.sh
#   CONFIG=pretraining_AS2M_large bash scripts/pretraining_AS2M.sh optimization.max_update=100000
#   CONFIG=pretraining_SSLAM bash scripts/pretraining_AS2M.sh model.model_path=EAT-base.pt
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

CONFIG=${CONFIG:-pretraining_AS2M}           # or pretraining_AS2M_large, pretraining_AS2M_small
DATA=${DATA:-data/audioset}                  # folder with train.tsv
SAVE=${SAVE:-checkpoints/$CONFIG}            # checkpoints, logs, the configuration as it ran
DEVICES=${DEVICES:-4}                        # GPUs of this machine
BATCH=${BATCH:-12}                           # clips a device

exec fairseq-hydra-train --config-dir "$ROOT/config" --config-name "$CONFIG" \
    common.user_dir="$ROOT/EAT" task.data="$DATA" checkpoint.save_dir="$SAVE" \
    distributed_training.distributed_world_size="$DEVICES" dataset.batch_size="$BATCH" "$@"
