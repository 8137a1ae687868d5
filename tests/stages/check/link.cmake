target_link_libraries(test_${name} PRIVATE braise_stages_check_work braise_schemas)
