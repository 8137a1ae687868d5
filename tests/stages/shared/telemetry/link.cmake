target_link_libraries(test_${name} PRIVATE braise_schemas)
