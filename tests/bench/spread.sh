#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trainings spread over two ranks of this machine. Usage: spread.sh [FOLDER of the scratch file [turns [ranks] [offload] [pipeline]]]
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mpirun -n 2 --oversubscribe --bind-to none --mca orte_tmpdir_base "$work" \
  --mca btl_vader_backing_directory "$work" "$bin/../bench/spread_bench" "${1:-$work}" "${@:2}"
