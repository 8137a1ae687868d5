#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Steps of GPT-2 124M through `braise run` (data, metrics, checks for NaN and all), beside the bare steps of
# train_step_bench, in turn. Usage: end_to_end.sh [bf16|fp32] [rounds]
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
compute=${1:-bf16}
rounds=${2:-3}
export OMP_NUM_THREADS=2
seq 1 200000 >"$work/text.txt"
cat >"$work/recipe.yaml" <<YAML
recipe: 1
name: end-to-end
description: Six steps of the size that train_step_bench takes.
seed: 1337
resources: {threads: $OMP_NUM_THREADS}
stages:
  corpus:
    kind: tokenize
    input: text.txt
    tokenizer: {kind: bytes}
  pretrain:
    kind: train
    data: {tokens: "\${stages.corpus.tokens}", sequence: 1024}
    model: {family: gpt2, layers: 12, hidden: 768, heads: 12, vocabulary: 50257}
    steps: 6
    batch: {global: 4, micro: 4}
    optimizer: {kind: adamw, lr: 6e-4}
    precision: {compute: $compute}
YAML
median() { sort -n | awk '{t[NR]=$1} END {print t[int((NR+1)/2)]}'; }
for ((i = 0; i < rounds; i++)); do
  # The first step of either also allocates.
  "$bin/../bench/train_step_bench" "$compute" 4 1024 5 | sed -n 's/^step [2-9].*, \([0-9.]*\) s, of which.*/\1/p' \
    >>"$work/bare"
  "$bin/braise" run "$work/recipe.yaml" --runs "$work/runs$i" >/dev/null 2>"$work/err" || { cat "$work/err" >&2; exit 1; }
  # Seconds from one step's line to the next.
  find "$work/runs$i" -path '*pretrain*' -name metrics.jsonl -exec grep -h '"loss_bits"' {} + |
    sed 's/.*"time":"[^T]*T\([0-9]*\):\([0-9]*\):\([0-9.]*\)Z".*/\1 \2 \3/' |
    awk '{t = $1 * 3600 + $2 * 60 + $3; if (NR > 1) print t - last; last = t}' >>"$work/through"
  rm -rf "$work/runs$i"
done
bare=$(median <"$work/bare")
through=$(median <"$work/through")
awk -v bare="$bare" -v through="$through" -v n="$(wc -l <"$work/through")" 'BEGIN {
  printf "bare step           %7.3f s  %6.0f tokens/s\n", bare, 4096 / bare
  printf "through braise run  %7.3f s  %6.0f tokens/s, of the bare step %.3f (medians of %d steps)\n",
    through, 4096 / through, bare / through, n
}'
sort -n "$work/bare" | tr '\n' ' ' | sed 's/^/bare:    /; s/$/\n/'
sort -n "$work/through" | tr '\n' ' ' | sed 's/^/through: /; s/$/\n/'
