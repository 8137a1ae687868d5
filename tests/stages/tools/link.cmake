add_dependencies(test_${name} braise-worker)
