#include "start.cuh"

cudaError_t fa::forward_bfloat16(const Attention& p, bool general, cudaStream_t stream) {
  return forward_of<Bfloat16>(p, general, stream);
}
