#!/usr/bin/env bash
# Fine-tunes on ESC-50's five folds, one after the other, and prints each fold's accuracy, their mean and deviation.
# The accuracy is that of the last update, not of the best epoch, which the held-out fold itself would have chosen.
# Every variable can be set from the environment, arguments are passed on.
#
#   DATA=/data/esc50 CHECKPOINT=eat_base.pt bash scripts/finetuning_ESC50.sh
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

CONFIG=${CONFIG:-finetuning_ESC50}           # or finetuning_BAT_ESC50
DATA=${DATA:-data/esc50}                     # folder that EAT.prepare esc50 wrote: fold1 ... fold5
CHECKPOINT=${CHECKPOINT:-checkpoints/pretraining_AS2M/checkpoint_last.pt} # to start from
SAVE=${SAVE:-checkpoints/finetuning_ESC50}   # a folder for each fold
FOLDS=${FOLDS:-1 2 3 4 5}                    # which folds
DEVICES=${DEVICES:-1}                        # GPUs of this machine
BATCH=${BATCH:-$((48 / DEVICES))}            # clips a device
PYTHON=${PYTHON:-python}

results=()
for fold in $FOLDS; do
    fairseq-hydra-train --config-dir "$ROOT/config" --config-name "$CONFIG" \
        common.user_dir="$ROOT/EAT" task.data="$DATA/fold$fold" model.model_path="$CHECKPOINT" \
        checkpoint.save_dir="$SAVE/fold$fold" \
        distributed_training.distributed_world_size="$DEVICES" dataset.batch_size="$BATCH" "$@"
    results+=("fold$fold=$SAVE/fold$fold/checkpoint_last.pt")
done
exec "$PYTHON" "$ROOT/scripts/fold_summary.py" "${results[@]}"
