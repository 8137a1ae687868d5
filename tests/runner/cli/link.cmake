add_dependencies(test_${name} braise braise-worker)
