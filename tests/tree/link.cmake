target_link_libraries(test_${name} PRIVATE braise_stages_registry braise_schemas)
