// What the tensor cores do at best by mma.sync: bfloat16 products in registers, nothing loaded.
#pragma once

#include "lib/platform.cuh"

namespace fa {

constexpr int ROOF_THREADS = 256, ROOF_BLOCKS = 4, ROOF_SUMS = 8;

__global__ void __launch_bounds__(ROOF_THREADS) roof(int rounds, float* never_gmem) {
  float sums_reg[ROOF_SUMS][4] = {};
  const u32 a_reg[4] = {threadIdx.x, 1, 2, 3};
  for (int round = 0; round < rounds; round++) {
#pragma unroll
    for (int n = 0; n < ROOF_SUMS; n++) mma_bf16(sums_reg[n], a_reg, n, round);
  }
  float sum = 0.f;
  for (int n = 0; n < ROOF_SUMS; n++) sum += sums_reg[n][0] + sums_reg[n][3];
  // Never true: so that nothing is left out as unused.
  if (never_gmem && sum == 1.2345f) *never_gmem = sum;
}

}  // namespace fa
