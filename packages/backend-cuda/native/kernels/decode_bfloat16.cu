#include "start.cuh"

cudaError_t fa::decode_bfloat16(const Attention& p, bool general, cudaStream_t stream) {
  return decode_of<Bfloat16>(p, general, stream);
}
