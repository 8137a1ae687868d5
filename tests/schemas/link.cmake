target_link_libraries(test_${name} PRIVATE valijson braise_runner_journal)
