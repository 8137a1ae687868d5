#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The sum of gradients over 2 and 4 ranks of this machine. Usage: comm.sh [MB...]
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
for ranks in 2 4; do
  mpirun -n $ranks --oversubscribe --bind-to none --mca orte_tmpdir_base "$work" \
    --mca btl_vader_backing_directory "$work" "$bin/../bench/comm_bench" "$@"
done
