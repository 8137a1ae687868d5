target_link_libraries(test_${name} PRIVATE OpenMP::OpenMP_CXX)
