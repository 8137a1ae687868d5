# The tests run real commands and workers, on a cluster of their own each. Without Slurm they say so and count as skipped.
add_dependencies(test_${name} braise braise-worker)
set(label slurm)
set(more_properties SKIP_REGULAR_EXPRESSION "SKIPPED: " PROCESSORS 2)
