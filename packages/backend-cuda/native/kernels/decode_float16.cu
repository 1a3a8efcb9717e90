#include "start.cuh"

cudaError_t fa::decode_float16(const Attention& p, bool general, cudaStream_t stream) {
  return decode_of<Float16>(p, general, stream);
}
