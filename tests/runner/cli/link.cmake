add_dependencies(test_${name} braise braise-worker)
target_link_libraries(test_${name} PRIVATE braise_stages_shared_model braise_test_tensors)
