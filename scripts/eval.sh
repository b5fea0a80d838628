#!/usr/bin/env bash
# Evaluates a fine-tuned checkpoint; every variable can be set from the environment, arguments are passed on.
#
#   DATA=/data/audioset CHECKPOINT=finetuned.pt bash scripts/eval.sh
set -euo pipefail

DATA=${DATA:-data/audioset}                  # folder with {split}.tsv and {split}.lbl
SPLIT=${SPLIT:-eval}
CHECKPOINT=${CHECKPOINT:-checkpoints/finetuning_AS2M/checkpoint_best.pt}
REPORT=${REPORT:-$(dirname "$CHECKPOINT")/report} # tables and an HTML page
PYTHON=${PYTHON:-python}

exec "$PYTHON" -m EAT.evaluate --data "$DATA" --split "$SPLIT" --checkpoint "$CHECKPOINT" --report "$REPORT" "$@"
