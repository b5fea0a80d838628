#!/usr/bin/env bash
# The whole of EAT on the 124 clips that ship with it, in a few minutes on two CPU cores: prepare, pre-train, fine-tune,
# evaluate, extract features, predict, draw. Everything it makes goes to demo/ in the checkout.
#
#   EAT_VENV   where the environment goes (default: .venv)
#   DEMO       where the results go (default: demo)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_environment requirements.txt

DEMO=${DEMO:-demo}
began=$SECONDS
step() { printf '\n\033[1m[%3d s] %s\033[0m\n' $((SECONDS - began)) "$*"; }

rm -rf "$DEMO"
mkdir -p "$DEMO"

step "1/7 Manifests, labels and normalisation constants of the clips"
python -m EAT.prepare folder data/clips "$DEMO/data" --labels data/clips.csv --label-column family --eval 0.25

step "2/7 Pre-training a small EAT (config/pretraining_demo.yaml)"
fairseq-hydra-train --config-dir config --config-name pretraining_demo common.user_dir=EAT \
    task.data="$DEMO/data" checkpoint.save_dir="$DEMO/pretraining"

step "3/7 Fine-tuning it to tell ten families of sounds apart (config/finetuning_demo.yaml)"
fairseq-hydra-train --config-dir config --config-name finetuning_demo common.user_dir=EAT \
    task.data="$DEMO/data" checkpoint.save_dir="$DEMO/finetuning" \
    model.model_path="$DEMO/pretraining/checkpoint_last.pt"

step "4/7 Evaluating it on clips that it has not seen"
python -m EAT.evaluate --data "$DEMO/data" --split eval --checkpoint "$DEMO/finetuning/checkpoint_last.pt" \
    --report "$DEMO/report"

step "5/7 Features of those clips"
python feature_extract/feature_extract.py --source "$DEMO/data/eval.tsv" --output "$DEMO/features" \
    --checkpoint "$DEMO/pretraining/checkpoint_last.pt" --granularity utterance

step "6/7 Labels for one of them"
unseen=$(python -c "
from EAT.data.manifest import Manifest
clips = Manifest('$DEMO/data/eval.tsv')
print(max((clips.samples(i), clips.source(i)) for i in range(len(clips)))[1])")
python -m EAT.predict --source "$unseen" --checkpoint "$DEMO/finetuning/checkpoint_last.pt" \
    --labels "$DEMO/data/label_descriptors.csv" --top-k 3

step "7/7 Pictures"
python -m EAT.plot masks "$unseen" --target-length 512 --output "$DEMO/pictures/masks.png"
python -m EAT.plot run "$DEMO/pretraining" --output "$DEMO/pictures/pretraining.png"
python -m EAT.plot run "$DEMO/finetuning" --output "$DEMO/pictures/finetuning.png"
python -m EAT.plot features "$unseen" --checkpoint "$DEMO/pretraining/checkpoint_last.pt" \
    --output "$DEMO/pictures/features.png"
python -m EAT.plot map "$DEMO/features" --manifest "$DEMO/data/eval.tsv" --output "$DEMO/pictures/map.png"
python -m EAT.plot map "$DEMO/features" --manifest "$DEMO/data/eval.tsv" --output "$DEMO/map.html"

step "Done. What there is now, in $DEMO/:"
cat <<EOF
  data/                       manifests, labels, normalisation constants
  pretraining/                the pre-trained checkpoint, its log and configuration
  finetuning/                 the classifier, likewise
  report/                     how good it is: open the HTML file in a browser
  features/                   one vector a clip, as .npy
  pictures/masks.png          a clip, and what three masks leave of it for the student to see
  pictures/pretraining.png    the losses falling
  pictures/features.png       that clip's features as colours under its spectrogram
  pictures/map.png            all those clips' features in the plane, a colour a family
  map.html                    the same as a page on which they are heard
EOF
