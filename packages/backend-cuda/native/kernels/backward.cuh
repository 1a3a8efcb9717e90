// Attention backward on mma.sync and cp.async, sm_80 and up. No sum crosses blocks, so the same inputs give the same bits:
//
//   deltas      delta [B, H, Sq] = rowsum(dout out), a warp a row
//   backward_kv a block owns keys, rows of queries pass by:   dv += p^T dout, dk += ds^T q
//   backward_q  a block owns rows, tiles of keys pass by:     dq += ds k, and delta anew
//   sums of dbias and dsinks
//
// with p = e^(s - lse) before dropout, ds = p (dropout dp - delta) slope, dp = dout v^T. Out is rounded to its dtype, and delta with
// it; the sum of p dropout dp, which backward_q can make on the way, is not, and so it is what dbias and dsinks are made of. Scores are made twice, transposed where
// a block owns keys, so that p and ds go from accumulators to the next product in registers.
//
// Dao, "FlashAttention-2", 2023, algorithm 2.
#pragma once

#include "lib/score.cuh"

namespace fa {

/** Tunables. OWN rows stay, PASS rows are loaded in turn. */
template <class T, int HD>
struct BackwardTile {
  static constexpr bool WIDE = sizeof(T) == 4 && HD == 256;
  static constexpr int WARPS = WIDE ? 2 : 4;
  static constexpr int OWN = 16 * WARPS;
  static constexpr int PASS = WIDE ? 16 : 32;
  static constexpr int THREADS = 32 * WARPS;
  static constexpr int ROW_BYTES = HD * static_cast<int>(sizeof(T));
  static constexpr int SHARED_BYTES = 2 * (OWN + PASS) * ROW_BYTES;
  /** Columns of dk and dv that a block of backward_kv keeps in registers; HD / WIDTH blocks share the keys. */
  static constexpr int WIDTH = HD < 128 ? HD : 128;
};

/** A row as the backward pass sees it. */
struct Row {
  Query query;
  /** -Infinity: no pair counts. */
  float lse;
  float delta;
};

template <bool GENERAL>
FA_DEVICE Row row_at(const Attention& p, int b, int h, int i, bool there) {
  Row row = {query_at<GENERAL>(p, b, h, i, there), NEGATIVE_INFINITY, 0.f};
  if (!there) return row;
  const i64 at = (b * i64{p.H} + h) * p.Sq + i;
  row.lse = p.lse_gmem[at];
  row.delta = p.delta_gmem[at];
  return row;
}

template <bool GENERAL>
FA_DEVICE bool counts(const Attention& p, const Row& row, int j) {
  return row.lse != NEGATIVE_INFINITY && visible<GENERAL>(p, row.query, j);
}

/** dropout(p) and ds from q.k and dout.v of a pair that counts; gives its share of delta. */
template <bool GENERAL>
FA_DEVICE float gradients(const Attention& p, const Row& row, int j, float& qk_to_p, float& dp_to_ds) {
  const Query& q = row.query;
  const float qk = qk_to_p, weight = exp2_approx((score_of<GENERAL>(p, q, j, qk) - row.lse) * LOG2E);
  float factor = 1.f;
  if constexpr (GENERAL) {
    if (p.hasDropout) {
      const Draws draws = draws_of(p.dropout, j >> 3, q.i, q.b * p.H + q.h);
      factor = keeps(p.dropout, draws, j) ? p.dropout.scale : 0.f;
    }
  }
  const float share = weight * factor * dp_to_ds;
  qk_to_p = weight * factor;
  dp_to_ds = weight * (factor * dp_to_ds - row.delta);
  return share;
}

/** finish: accumulators to rows of a gradient. */
template <class T, int N>
FA_DEVICE void store_rows(const Fragment (&acc_reg)[N], T* const (&row_gmem)[2], int first, int dim) {
  const int t = lane_id() & 3;
#pragma unroll
  for (int n = 0; n < N; n++) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int d = first + 8 * n + 2 * t + (e & 1);
      if (row_gmem[e >> 1] && d < dim) from_float(row_gmem[e >> 1][d], acc_reg[n][e]);
    }
  }
}

template <class T, int HD, bool GENERAL>
__global__ void __launch_bounds__(BackwardTile<T, HD>::THREADS) backward_kv(const Attention p) {
  using Sizes = BackwardTile<T, HD>;
  constexpr int OWN = Sizes::OWN, PASS = Sizes::PASS, THREADS = Sizes::THREADS, WIDTH = Sizes::WIDTH;
  const u32 k_smem = 0, v_smem = OWN * Sizes::ROW_BYTES, q_smem = 2 * v_smem, dout_smem = q_smem + PASS * Sizes::ROW_BYTES;

  // setup
  const int keyBlocks = (p.Skv + OWN - 1) / OWN;
  i64 index = blockIdx.x;
  const int slice = static_cast<int>(index % (HD / WIDTH)) * WIDTH;
  index /= HD / WIDTH;
  const int firstKey = static_cast<int>(index % keyBlocks) * OWN, endKey = least(firstKey + OWN, p.Skv);
  index /= keyBlocks;
  const int keyHead = static_cast<int>(index % p.Hkv), b = static_cast<int>(index / p.Hkv);
  const int warpRow = 16 * warp_id(), g = lane_id() >> 2, t = lane_id() & 3;

  const T* k_gmem = static_cast<const T*>(p.k_gmem) + offset_of(p.k, b, keyHead, 0);
  const T* v_gmem = static_cast<const T*>(p.v_gmem) + offset_of(p.v, b, keyHead, 0);
  const auto key_rows = [&](const T* from_gmem, i64 stride) {
    return [=](int row) -> const T* { return firstKey + row < endKey ? from_gmem + (firstKey + row) * stride : nullptr; };
  };
  load_tile<T, HD, OWN, THREADS>(k_smem, k_gmem, key_rows(k_gmem, p.k.row), p.D, p.qkAligned);
  load_tile<T, HD, OWN, THREADS>(v_smem, v_gmem, key_rows(v_gmem, p.v.row), p.Dv, p.vAligned);

  Fragment dk_reg[WIDTH / 8], dv_reg[WIDTH / 8];
#pragma unroll
  for (int n = 0; n < WIDTH / 8; n++) {
#pragma unroll
    for (int e = 0; e < 4; e++) dk_reg[n][e] = dv_reg[n][e] = 0.f;
  }

  // Rows that see some key of the block.
  const int begin = most(firstKey - p.hi, 0) / PASS * PASS, end = least(endKey - 1 - p.lo + 1, p.Sq);
  for (int h = keyHead * (p.H / p.Hkv); h < (keyHead + 1) * (p.H / p.Hkv); h++) {
    const T* q_gmem = static_cast<const T*>(p.q_gmem) + offset_of(p.q, b, h, 0);
    const T* dout_gmem = static_cast<const T*>(p.dout_gmem) + offset_of(p.out, b, h, 0);
#pragma unroll 1
    for (int i0 = begin; i0 < end; i0 += PASS) {
      // load: q [PASS, D], dout [PASS, Dv]
      const auto query_rows = [&](const T* from_gmem, i64 stride) {
        return [=, &p](int row) -> const T* { return i0 + row < p.Sq ? from_gmem + (i0 + row) * stride : nullptr; };
      };
      load_tile<T, HD, PASS, THREADS>(q_smem, q_gmem, query_rows(q_gmem, p.q.row), p.D, p.qkAligned);
      load_tile<T, HD, PASS, THREADS>(dout_smem, dout_gmem, query_rows(dout_gmem, p.out.row), p.Dv, p.vAligned);
      cp_async_commit();
      cp_async_wait<0>();
      __syncthreads();

      // scores: s^T and dp^T [OWN, PASS]
      Fragment p_reg[PASS / 8], ds_reg[PASS / 8];
      multiply_rows<T, HD, PASS>(p_reg, k_smem, warpRow, q_smem, p.D);
      multiply_rows<T, HD, PASS>(ds_reg, v_smem, warpRow, dout_smem, p.Dv);

      // softmax: dropout(p)^T and ds^T
#pragma unroll
      for (int n = 0; n < PASS / 8; n++) {
#pragma unroll
        for (int column = 0; column < 2; column++) {
          const int i = i0 + 8 * n + 2 * t + column;
          const Row row = row_at<GENERAL>(p, b, h, i, i < p.Sq);
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const int j = firstKey + warpRow + g + 8 * half, e = 2 * half + column;
            if (j < endKey && counts<GENERAL>(p, row, j)) {
              const float slope = score_slope<GENERAL>(p, p_reg[n][e]);
              gradients<GENERAL>(p, row, j, p_reg[n][e], ds_reg[n][e]);
              ds_reg[n][e] *= slope;
            } else {
              p_reg[n][e] = ds_reg[n][e] = 0.f;
            }
          }
        }
      }

      // accumulate
      const bool full = i0 + PASS <= p.Sq && endKey - firstKey == OWN && firstKey >= i0 + PASS - 1 + p.lo &&
                        endKey - 1 <= i0 + p.hi && !GENERAL;
      if (!full) {
        const auto sees = [&](int half, int row) {
          const int i = i0 + row, j = firstKey + warpRow + g + 8 * half;
          return j < endKey && counts<GENERAL>(p, row_at<GENERAL>(p, b, h, i, i < p.Sq), j);
        };
        __syncthreads();
        take_out_nan<T, HD, PASS, WIDTH, THREADS>(dv_reg, dout_smem, slice, p.Dv, sees);
        take_out_nan<T, HD, PASS, WIDTH, THREADS>(dk_reg, q_smem, slice, p.D, sees);
      }
      multiply_columns<T, HD, PASS, WIDTH>(dv_reg, p_reg, dout_smem, slice, p.Dv);
      multiply_columns<T, HD, PASS, WIDTH>(dk_reg, ds_reg, q_smem, slice, p.D);
      __syncthreads();
    }
  }

  // finish
  T *dk_gmem[2], *dv_gmem[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int j = firstKey + warpRow + g + 8 * half;
    const bool there = j < endKey;
    dk_gmem[half] = there ? static_cast<T*>(p.dk_gmem) + offset_of(p.k, b, keyHead, j) : nullptr;
    dv_gmem[half] = there ? static_cast<T*>(p.dv_gmem) + offset_of(p.v, b, keyHead, j) : nullptr;
  }
  store_rows(dk_reg, dk_gmem, slice, p.D);
  store_rows(dv_reg, dv_gmem, slice, p.Dv);
}

template <class T, int HD, bool GENERAL>
__global__ void __launch_bounds__(BackwardTile<T, HD>::THREADS) backward_q(const Attention p) {
  using Sizes = BackwardTile<T, HD>;
  constexpr int OWN = Sizes::OWN, PASS = Sizes::PASS, THREADS = Sizes::THREADS;
  const u32 q_smem = 0, dout_smem = OWN * Sizes::ROW_BYTES, k_smem = 2 * dout_smem, v_smem = k_smem + PASS * Sizes::ROW_BYTES;

  // setup
  const int rowBlocks = (p.Sq + OWN - 1) / OWN;
  i64 index = blockIdx.x;
  const int firstRow = (rowBlocks - 1 - static_cast<int>(index % rowBlocks)) * OWN, endRow = least(firstRow + OWN, p.Sq);
  index /= rowBlocks;
  const int h = static_cast<int>(index % p.H), b = static_cast<int>(index / p.H), keyHead = h / (p.H / p.Hkv);
  const int warpRow = 16 * warp_id(), g = lane_id() >> 2, t = lane_id() & 3;

  const T* q_gmem = static_cast<const T*>(p.q_gmem) + offset_of(p.q, b, h, 0);
  const T* dout_gmem = static_cast<const T*>(p.dout_gmem) + offset_of(p.out, b, h, 0);
  const T* k_gmem = static_cast<const T*>(p.k_gmem) + offset_of(p.k, b, keyHead, 0);
  const T* v_gmem = static_cast<const T*>(p.v_gmem) + offset_of(p.v, b, keyHead, 0);
  const auto rows_from = [](const T* from_gmem, i64 stride, int first, int past) {
    return [=](int row) -> const T* { return first + row < past ? from_gmem + (first + row) * stride : nullptr; };
  };
  load_tile<T, HD, OWN, THREADS>(q_smem, q_gmem, rows_from(q_gmem, p.q.row, firstRow, endRow), p.D, p.qkAligned);
  load_tile<T, HD, OWN, THREADS>(dout_smem, dout_gmem, rows_from(dout_gmem, p.out.row, firstRow, endRow), p.Dv, p.vAligned);

  Row row[2];
  float delta[2] = {0.f, 0.f};
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int i = firstRow + warpRow + g + 8 * half;
    row[half] = row_at<GENERAL>(p, b, h, i, i < endRow);
  }
  Fragment dq_reg[HD / 8];
#pragma unroll
  for (int n = 0; n < HD / 8; n++) {
#pragma unroll
    for (int e = 0; e < 4; e++) dq_reg[n][e] = 0.f;
  }

  const int begin = most(firstRow + p.lo, 0) / PASS * PASS, end = least(endRow - 1 + p.hi + 1, p.Skv);
#pragma unroll 1
  for (int j0 = begin; j0 < end; j0 += PASS) {
    // load: k [PASS, D], v [PASS, Dv]
    load_tile<T, HD, PASS, THREADS>(k_smem, k_gmem, rows_from(k_gmem, p.k.row, j0, p.Skv), p.D, p.qkAligned);
    load_tile<T, HD, PASS, THREADS>(v_smem, v_gmem, rows_from(v_gmem, p.v.row, j0, p.Skv), p.Dv, p.vAligned);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();

    // scores: s and dp [OWN, PASS]
    Fragment p_reg[PASS / 8], ds_reg[PASS / 8];
    multiply_rows<T, HD, PASS>(p_reg, q_smem, warpRow, k_smem, p.D);
    multiply_rows<T, HD, PASS>(ds_reg, dout_smem, warpRow, v_smem, p.Dv);

    // softmax: ds
    const auto sees = [&](int half, int column) { return counts<GENERAL>(p, row[half], j0 + column); };
#pragma unroll
    for (int n = 0; n < PASS / 8; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int half = e >> 1, column = 8 * n + 2 * t + (e & 1);
        if (sees(half, column)) {
          const float slope = score_slope<GENERAL>(p, p_reg[n][e]);
          delta[half] += gradients<GENERAL>(p, row[half], j0 + column, p_reg[n][e], ds_reg[n][e]);
          ds_reg[n][e] *= slope;
        } else {
          ds_reg[n][e] = 0.f;
        }
      }
    }

    // accumulate
    const bool full = j0 + PASS <= p.Skv && endRow - firstRow == OWN && j0 >= endRow - 1 + p.lo &&
                      j0 + PASS - 1 <= firstRow + p.hi && !GENERAL;
    if (!full) {
      __syncthreads();
      take_out_nan<T, HD, PASS, HD, THREADS>(dq_reg, k_smem, 0, p.D, sees);
    }
    multiply_columns<T, HD, PASS, HD>(dq_reg, ds_reg, k_smem, 0, p.D);
    __syncthreads();
  }

  // finish
  T* dq_gmem[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const Query& q = row[half].query;
    const float sum = quad_sum(delta[half]);
    if (q.there && t == 0) p.delta_gmem[(b * i64{p.H} + h) * p.Sq + q.i] = sum;
    dq_gmem[half] = q.there ? static_cast<T*>(p.dq_gmem) + offset_of(p.q, b, h, q.i) : nullptr;
  }
  store_rows(dq_reg, dq_gmem, 0, p.D);
}

// ---- sums, a warp each

constexpr int SUM_WARPS = 4;

template <class T>
FA_DEVICE float warp_dot(const T* a_gmem, const T* b_gmem, int dim) {
  float sum = 0.f;
  for (int d = lane_id(); d < dim; d += 32) sum += to_float(a_gmem[d]) * to_float(b_gmem[d]);
  return warp_sum(sum);
}

template <class T>
__global__ void __launch_bounds__(32 * SUM_WARPS) deltas(const Attention p) {
  const i64 at = blockIdx.x * i64{SUM_WARPS} + warp_id();
  if (at >= i64{p.B} * p.H * p.Sq) return;
  const int i = static_cast<int>(at % p.Sq), h = static_cast<int>(at / p.Sq % p.H), b = static_cast<int>(at / p.Sq / p.H);
  const i64 offset = offset_of(p.out, b, h, i);
  float delta = warp_dot(static_cast<const T*>(p.out_gmem) + offset, static_cast<const T*>(p.dout_gmem) + offset, p.Dv);
  if (delta != delta) {
    // Out is 0 where the row sees no key, but 0 times a dout that is NaN is not.
    const Query q = query_at<true>(p, b, h, i, true);
    bool any = false;
    for (int j = q.begin; j < q.end && !any; j++) any = visible<true>(p, q, j);
    if (!any) delta = 0.f;
  }
  if (lane_id() == 0) p.delta_gmem[at] = delta;
}

/** dsinks [H] = -sum over b and i of exp(sink - lse) delta; a warp a head. */
template <class T>
__global__ void __launch_bounds__(32) sink_gradients(const Attention p) {
  const int h = blockIdx.x;
  const float sink = sink_of(p, h);
  float sum = 0.f;
  for (i64 n = lane_id(); n < i64{p.B} * p.Sq; n += 32) {
    const i64 at = (n / p.Sq * p.H + h) * p.Sq + n % p.Sq;
    const float lse = p.lse_gmem[at];
    if (lse != NEGATIVE_INFINITY) sum -= exp2_approx((sink - lse) * LOG2E) * p.delta_gmem[at];
  }
  sum = warp_sum(sum);
  if (lane_id() == 0) store_as(p.sinksDType, p.dsinks_gmem, h, sum);
}

/** dbias in the shape of bias: each element sums ds over what it was repeated along; a warp an element. */
template <class T>
__global__ void __launch_bounds__(32 * SUM_WARPS) bias_gradients(const Attention p) {
  const int sizeB = p.bias.batch ? p.B : 1, sizeH = p.bias.head ? p.H : 1;
  const int sizeI = p.bias.row ? p.Sq : 1, sizeJ = p.bias.column ? p.Skv : 1;
  const i64 at = blockIdx.x * i64{SUM_WARPS} + warp_id();
  if (at >= i64{sizeB} * sizeH * sizeI * sizeJ) return;
  const int ownJ = static_cast<int>(at % sizeJ), ownI = static_cast<int>(at / sizeJ % sizeI);
  const int ownH = static_cast<int>(at / sizeJ / sizeI % sizeH), ownB = static_cast<int>(at / sizeJ / sizeI / sizeH);
  // In float64: the terms of a row add up to nearly nothing.
  double sum = 0;
  for (int b = p.bias.batch ? ownB : 0; b < (p.bias.batch ? ownB + 1 : p.B); b++) {
    for (int h = p.bias.head ? ownH : 0; h < (p.bias.head ? ownH + 1 : p.H); h++) {
      const int keyHead = h / (p.H / p.Hkv);
      for (int i = p.bias.row ? ownI : 0; i < (p.bias.row ? ownI + 1 : p.Sq); i++) {
        const Row row = row_at<true>(p, b, h, i, true);
        const int begin = p.bias.column ? ownJ : row.query.begin, end = p.bias.column ? ownJ + 1 : row.query.end;
        for (int j = begin; j < end; j++) {
          if (!counts<true>(p, row, j)) continue;
          float qk = warp_dot(static_cast<const T*>(p.q_gmem) + offset_of(p.q, b, h, i),
                              static_cast<const T*>(p.k_gmem) + offset_of(p.k, b, keyHead, j), p.D);
          float ds = warp_dot(static_cast<const T*>(p.dout_gmem) + offset_of(p.out, b, h, i),
                              static_cast<const T*>(p.v_gmem) + offset_of(p.v, b, keyHead, j), p.Dv);
          gradients<true>(p, row, j, qk, ds);
          sum += ds;
        }
      }
    }
  }
  if (lane_id() == 0) store_as(p.biasDType, p.dbias_gmem, at, static_cast<float>(sum));
}

}  // namespace fa
