#include "hopper_start.cuh"

cudaError_t fa::forward_hopper_general_float16(const Attention& p, int processors, cudaStream_t stream) {
  return with_head_dim(p, [&](auto dim) { return start_hopper_general<Float16, dim()>(p, processors, stream); });
}
