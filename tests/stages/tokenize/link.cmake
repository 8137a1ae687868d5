target_link_libraries(test_${name} PRIVATE braise_stages_tokenize_work braise_schemas)
