#include "start.cuh"

cudaError_t fa::backward_bfloat16(const Attention& p, bool general, cudaStream_t stream) {
  return backward_of<Bfloat16>(p, general, stream);
}
