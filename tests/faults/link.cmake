add_dependencies(test_${name} braise braise-worker)
set(more_properties PROCESSORS 2)
