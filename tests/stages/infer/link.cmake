target_link_libraries(test_${name} PRIVATE braise_stages_infer_work braise_kernels_sampling braise_test_tensors braise_schemas)
set(tiers baseline avx2)
