target_link_libraries(test_${name} PRIVATE Threads::Threads braise_schemas valijson)
