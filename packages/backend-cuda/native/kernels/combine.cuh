// The pieces of a split forward, combined by lse: out = sum of e^(lse_s - m) out_s / sum of e^(lse_s - m). A warp a row.
#pragma once

#include "lib/rows.cuh"

namespace fa {

/** packages/backend-cuda/src/kernels.ts has the same. */
constexpr int MOST_SPLITS = 128;
constexpr int COMBINE_WARPS = 4;
/** Weights of a row's pieces. */
constexpr int COMBINE_BYTES_A_WARP = 4 * MOST_SPLITS;

/** @param weights_smem COMBINE_BYTES_A_WARP of this warp's own */
template <class T>
FA_DEVICE void combine_row(const Attention& p, i64 row, u32 weights_smem) {
  const i64 rows = i64{p.B} * p.H * p.Sq;
  float* weights = reinterpret_cast<float*>(shared_at(weights_smem));
  float m = NEGATIVE_INFINITY;
  for (int s = lane_id(); s < p.splits; s += 32) m = fmaxf(m, load_fresh(p.partialLse_gmem + s * rows + row));
  m = warp_max(m);
  const float base = subtrahend(m);
  float sum = 0.f;
  for (int s = lane_id(); s < p.splits; s += 32) {
    weights[s] = exp2_approx((load_fresh(p.partialLse_gmem + s * rows + row) - base) * LOG2E);
    sum += weights[s];
  }
  sum = warp_sum(sum);
  __syncwarp();

  const int i = static_cast<int>(row % p.Sq), h = static_cast<int>(row / p.Sq % p.H), b = static_cast<int>(row / p.Sq / p.H);
  T* out_gmem = static_cast<T*>(p.out_gmem) + offset_of(p.out, b, h, i);
  for (int d = 4 * lane_id(); d < p.Dv; d += 128) {
    const int width = least(4, p.Dv - d);
    Fragment x = {0.f, 0.f, 0.f, 0.f};
    const float* from_gmem = p.partial_gmem + row * p.Dv + d;
#pragma unroll 8
    for (int s = 0; s < p.splits; s++, from_gmem += rows * p.Dv) {
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (e < width) x[e] = fmaf(weights[s], load_fresh(from_gmem + e), x[e]);
    }
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (e < width) from_float(out_gmem[d + e], sum == 0.f ? 0.f : finite_or_nan(x[e] / sum));
  }
  if (lane_id() == 0 && p.lse_gmem) p.lse_gmem[row] = lse_of(m, 1.f, sum);
  __syncwarp();
}

template <class T>
__global__ void __launch_bounds__(32 * COMBINE_WARPS) combine(const Attention p) {
  const i64 row = blockIdx.x * i64{COMBINE_WARPS} + warp_id();
  if (row < i64{p.B} * p.H * p.Sq) combine_row<T>(p, row, warp_id() * COMBINE_BYTES_A_WARP);
}

}  // namespace fa
