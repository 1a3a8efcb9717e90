#include "start.cuh"

cudaError_t fa::backward_float32(const Attention& p, bool general, cudaStream_t stream) {
  return backward_of<float>(p, general, stream);
}
