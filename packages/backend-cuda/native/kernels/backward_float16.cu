#include "start.cuh"

cudaError_t fa::backward_float16(const Attention& p, bool general, cudaStream_t stream) {
  return backward_of<Float16>(p, general, stream);
}
