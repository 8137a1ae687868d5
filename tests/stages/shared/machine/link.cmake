find_package(OpenMP REQUIRED COMPONENTS CXX)
target_link_libraries(test_${name} PRIVATE OpenMP::OpenMP_CXX)
