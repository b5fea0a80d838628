#!/usr/bin/env bash
# The best classes of recordings; every variable can be set from the environment, arguments are passed on.
#
#   SOURCE=clip.wav CHECKPOINT=finetuned.pt LABELS=class_labels_indices.csv bash scripts/inference.sh --picture clip.png
set -euo pipefail

SOURCE=${SOURCE:-data/clips}                 # a file, a folder or a manifest (.tsv)
CHECKPOINT=${CHECKPOINT:-checkpoints/finetuning_AS2M/checkpoint_best.pt} # a fine-tuned one of any layout
LABELS=${LABELS:-data/audioset/label_descriptors.csv}
TOP_K=${TOP_K:-12}
FORMAT=${FORMAT:-}                           # table, csv, json, audacity, ...; by default told by the ending of --output
PYTHON=${PYTHON:-python}

exec "$PYTHON" -m EAT.predict --source "$SOURCE" --checkpoint "$CHECKPOINT" --labels "$LABELS" \
    --top-k "$TOP_K" ${FORMAT:+--format "$FORMAT"} "$@"
