#!/usr/bin/env bash
# Trains a small character-level model on a text, lists the runs, and prints a sample.
#
#   examples/shakespeare.sh TEXT            a few minutes on a laptop
#   examples/shakespeare.sh --small TEXT    a few seconds, to check that everything works
set -euo pipefail

size=(--layers 4 --heads 4 --d-model 128 --context-length 64 --steps 2000)
if [[ ${1:-} == --small ]]; then
  size=(--layers 1 --heads 2 --d-model 32 --context-length 16 --steps 20 --batch-size 8)
  shift
fi
text=${1:?which text? usage: examples/shakespeare.sh [--small] TEXT}

gptscratch train "$text" --tokenizer char "${size[@]}"
gptscratch info
gptscratch sample --max-tokens 500 --temperature 0.8 --top-k 40 --seed 1 < /dev/null
