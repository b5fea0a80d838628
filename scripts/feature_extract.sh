#!/usr/bin/env bash
# Features of recordings; every variable can be set from the environment, arguments are passed on.
#
#   SOURCE=/data/audio OUTPUT=features CHECKPOINT=eat.pt GRANULARITY=utterance bash scripts/feature_extract.sh
set -euo pipefail

SOURCE=${SOURCE:-data/clips}                 # a file, a folder or a manifest (.tsv)
OUTPUT=${OUTPUT:-features}                   # a folder; or one file: .npy for one source, .h5, .safetensors
CHECKPOINT=${CHECKPOINT:-checkpoints/pretraining_AS2M/checkpoint_last.pt} # or a published one, or a folder
GRANULARITY=${GRANULARITY:-all}              # all, frame or utterance
BATCH_SIZE=${BATCH_SIZE:-16}                 # clips of 10 s at once
DEVICES=${DEVICES:-1}                        # processes that share the list, one to a GPU
PYTHON=${PYTHON:-python}

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
START=("$PYTHON")
if [ "$DEVICES" -gt 1 ]; then START=("$PYTHON" -m torch.distributed.run --nproc_per_node "$DEVICES"); fi

exec "${START[@]}" "$HERE/feature_extract/feature_extract.py" --source "$SOURCE" --output "$OUTPUT" \
    --checkpoint "$CHECKPOINT" --granularity "$GRANULARITY" --batch-size "$BATCH_SIZE" "$@"
