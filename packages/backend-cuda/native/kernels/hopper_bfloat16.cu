#include "hopper_start.cuh"

cudaError_t fa::forward_hopper_bfloat16(const Attention& p, bool shortKeys, int processors, cudaStream_t stream) {
  return with_head_dim(p, [&](auto dim) { return start_hopper_common<Bfloat16, dim()>(p, shortKeys, processors, stream); });
}
