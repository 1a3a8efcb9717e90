#include "start.cuh"

cudaError_t fa::forward_float16(const Attention& p, bool general, cudaStream_t stream) {
  return forward_of<Float16>(p, general, stream);
}
