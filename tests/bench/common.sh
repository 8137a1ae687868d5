# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts beside it.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
bin=$root/build/${BRAISE_PRESET:-cpu-release}/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# times COUNT COMMAND...: prints "least median most" of the command's wall-clock milliseconds.
times() {
  local count=$1 i begin
  shift
  for ((i = 0; i < count; i++)); do
    begin=${EPOCHREALTIME/./}
    "$@" >/dev/null 2>"$work/err" || { cat "$work/err" >&2; return 1; }
    echo $((${EPOCHREALTIME/./} - begin))
  done | sort -n | awk '{t[NR]=$1/1000} END {printf "%8.1f %8.1f %8.1f\n", t[1], t[int((NR+1)/2)], t[NR]}'
}
