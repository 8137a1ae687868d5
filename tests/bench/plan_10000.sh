#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Plans a sweep of 10,000 points over two stages, one of which does not depend on it.
source "$(dirname "$0")/common.sh"
echo "some text" >"$work/text.txt"
{
  echo 'recipe: 1'
  echo 'name: wide'
  echo 'stages:'
  echo '  plain: {kind: tokenize, input: text.txt}'
  echo '  swept: {kind: tokenize, input: text.txt, after: [plain], validation: {fraction: 0.5}}'
  echo 'sweep:'
  echo "  stages.swept.seed: [$(seq -s, 1 100)]"
  echo "  stages.swept.shard_size: [$(seq -s, 5001 5100)]"
} >"$work/wide.yaml"
printf '%-50s %8s %8s %8s  (ms)\n' command least median most
for format in "" --json; do
  printf '%-50s %s\n' "braise plan $format (10,001 jobs)" "$(times 5 "$bin/braise" plan "$work/wide.yaml" --runs "$work/runs" $format)"
done
