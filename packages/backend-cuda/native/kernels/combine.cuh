// The pieces of a split forward, combined by lse: out = sum of e^(lse_s - m) out_s / sum of e^(lse_s - m). A warp a row.
#pragma once

#include "lib/score.cuh"

namespace fa {

constexpr int COMBINE_WARPS = 4;

template <class T>
__global__ void __launch_bounds__(32 * COMBINE_WARPS) combine(const Attention p) {
  const i64 rows = i64{p.B} * p.H * p.Sq, row = blockIdx.x * i64{COMBINE_WARPS} + warp_id();
  if (row >= rows) return;
  float m = NEGATIVE_INFINITY;
  for (int s = 0; s < p.splits; s++) m = fmaxf(m, p.partialLse_gmem[s * rows + row]);
  const float base = subtrahend(m);
  float sum = 0.f;
  for (int s = 0; s < p.splits; s++) sum += exp2_approx((p.partialLse_gmem[s * rows + row] - base) * LOG2E);

  const int i = static_cast<int>(row % p.Sq), h = static_cast<int>(row / p.Sq % p.H), b = static_cast<int>(row / p.Sq / p.H);
  T* out_gmem = static_cast<T*>(p.out_gmem) + offset_of(p.out, b, h, i);
  for (int d = lane_id(); d < p.Dv; d += 32) {
    float x = 0.f;
    for (int s = 0; s < p.splits; s++) {
      const i64 part = s * rows + row;
      x += exp2_approx((p.partialLse_gmem[part] - base) * LOG2E) * p.partial_gmem[part * p.Dv + d];
    }
    from_float(out_gmem[d], sum == 0.f ? 0.f : finite_or_nan(x / sum));
  }
  if (lane_id() == 0 && p.lse_gmem) p.lse_gmem[row] = sum == 0.f ? NEGATIVE_INFINITY : m + logf(sum);
}

}  // namespace fa
