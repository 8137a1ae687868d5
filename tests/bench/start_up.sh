#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Whole-process time of validate and plan on every ready-made recipe; `true` shows what starting any process costs.
source "$(dirname "$0")/common.sh"
printf '%-50s %8s %8s %8s  (ms)\n' command least median most
printf '%-50s %s\n' true "$(times 20 /bin/true)"
for recipe in "$root"/recipes/*.yaml; do
  for command in validate plan; do
    printf '%-50s %s\n' "braise $command ${recipe##*/}" "$(times 20 "$bin/braise" "$command" "$recipe")"
  done
done
