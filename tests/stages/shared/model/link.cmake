target_link_libraries(test_${name} PRIVATE braise_test_tensors braise_test_ranks braise_kernels_optimizer)
set(tiers baseline avx2)
