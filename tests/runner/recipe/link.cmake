target_link_libraries(test_${name} PRIVATE valijson)
# valijson uses <regex>, of which g++ 12 believes under sanitizers that it may be uninitialised.
target_compile_options(test_${name} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
