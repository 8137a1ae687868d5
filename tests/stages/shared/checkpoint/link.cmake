target_link_libraries(test_${name} PRIVATE Threads::Threads braise_test_ranks braise_schemas)
