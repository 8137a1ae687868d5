#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A run of a job that does next to nothing (four bytes to tokenize) against mpirun starting as many programs that only
# initialise and finalise MPI, alternating in one go.
source "$(dirname "$0")/common.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
cat >"$work/idle.c" <<'C'
#include <mpi.h>
int main(int argc, char** argv) {
  int provided;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  return MPI_Finalize();
}
C
mpicc -o "$work/idle" "$work/idle.c"
printf 'text' >"$work/text.txt"
printf 'recipe: 1\nname: idle\nresources: {workers_per_node: 2}\nstages:\n  s: {kind: tokenize, input: text.txt}\n' >"$work/idle.yaml"
printf '%-50s %8s %8s %8s  (ms)\n' command least median most
for round in 1 2 3; do
  printf '%-50s %s\n' "mpirun -n 2 idle" "$(times 5 mpirun --map-by slot:PE=1 --bind-to core -n 2 "$work/idle")"
  printf '%-50s %s\n' "braise run --fresh idle.yaml (2 workers)" "$(times 5 "$bin/braise" run "$work/idle.yaml" --runs "$work/runs" --fresh)"
done
