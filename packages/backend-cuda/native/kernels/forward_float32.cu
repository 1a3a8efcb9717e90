#include "start.cuh"

cudaError_t fa::forward_float32(const Attention& p, bool general, cudaStream_t stream) {
  return forward_of<float>(p, general, stream);
}
