target_link_libraries(test_${name} PRIVATE braise_test_tensors)
set(tiers baseline avx2 avx512)
