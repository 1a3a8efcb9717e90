#include "start.cuh"

cudaError_t fa::decode_float32(const Attention& p, bool general, cudaStream_t stream) {
  return decode_of<float>(p, general, stream);
}
