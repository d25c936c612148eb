#!/usr/bin/env bash
# Trains word-level models on film reviews: two settings of an older project, shortened, and two of gptscratch.
# Takes two hours on two cores.
#
#   examples/reviews/run.sh TABLE FOLDER            TABLE: a .csv or .csv.gz with a column "review"
#   examples/reviews/run.sh --small TABLE FOLDER    a few seconds, to check that everything works
set -euo pipefail

# The last two are scored on the whole validation set at the end, the older settings on a sixth of it.
new=(--minutes 60) bpe=(--minutes 15)
small=(--steps 1000 --batch-size 16 --eval-interval 100) large=(--steps 400 --batch-size 16 --eval-interval 40)
words=(--tokenizer word --min-frequency 5)
body=(--layers 4 --heads 6 --d-model 384 --context-length 256)
small_body=(--layers 2 --heads 2 --d-model 256 --context-length 256)
large_body=(--layers 3 --heads 12 --d-model 768 --context-length 256)
parts=(--adaptive-cutoffs 4000 --adaptive-cutoffs 16000)
if [[ ${1:-} == --small ]]; then
  new=(--steps 3) bpe=(--steps 3) small=(--steps 3) large=(--steps 3)
  words=(--tokenizer word)
  body=(--layers 1 --heads 2 --d-model 32 --context-length 32)
  small_body=("${body[@]}")
  large_body=("${body[@]}")
  parts=(--adaptive-cutoffs 10)
  shift
fi
table=${1:?which table? usage: examples/reviews/run.sh [--small] TABLE FOLDER}
folder=${2:?which folder for the texts and the picture?}
here=$(dirname "${BASH_SOURCE[0]}")

python "$here/prepare.py" "$table" "$folder"
reviews=("$folder/train.jsonl" --val-file "$folder/val.jsonl" --text-column review --force)
bare=(--clean lowercase --clean punctuation "${words[@]}")
gpt1=(--position sinusoidal --norm layernorm --activation gelu --no-qk-norm --bias --tie-embeddings --dropout 0.15
      --optimizer adamw --documents padded)

gptscratch train "${reviews[@]}" "${bare[@]}" "${gpt1[@]}" "${small_body[@]}" \
  --lr-schedule onecycle "${small[@]}" --set final_eval_tokens=200000 --name reviews-onecycle
gptscratch train "${reviews[@]}" "${bare[@]}" "${gpt1[@]}" "${large_body[@]}" \
  --lr-schedule constant --learning-rate 0.0003 "${large[@]}" --set final_eval_tokens=200000 --name reviews-constant
gptscratch train "${reviews[@]}" "${bare[@]}" "${body[@]}" "${parts[@]}" --output-bias \
  "${new[@]}" --set final_eval_tokens=1000000000 --name reviews-ours
# Keeps case and punctuation, so its bits per byte can be compared with those of other models.
gptscratch train "${reviews[@]}" --tokenizer bpe "${bpe[@]}" --set final_eval_tokens=1000000000 --name reviews-bpe

python "$here/score.py" reviews-ours
python "$here/report.py" "$folder/curves.png" reviews-onecycle reviews-constant reviews-ours
