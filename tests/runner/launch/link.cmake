# The tests launch real workers.
add_dependencies(test_${name} braise-worker)
