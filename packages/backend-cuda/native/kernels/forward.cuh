// Attention forward on mma.sync and cp.async, sm_80 and up: every dtype of 16 bits and float32, every option, every head dim.
//
// A block of 32 WARPS threads owns Br = 16 WARPS rows; a row is a query of one of `group` heads that share a key head. K and V
// have one tile each in shared memory: while one is multiplied with, the other is loaded.
//
//   setup       m, l [Br], acc [Br, Dv]; q to shared memory
//   load        k [Bc, D], v [Bc, Dv] by cp.async
//   scores      s [Br, Bc] = program(q k^T)
//   softmax     p [Br, Bc] = e^(s - m), l; what came before is rescaled to the new max
//   accumulate  acc [Br, Dv] += dropout(p) v
//   finish      out = acc / l, lse = m + log l
//
// Dao, "FlashAttention-2", 2023, algorithm 1.
#pragma once

#include "lib/score.cuh"

namespace fa {

/** Tunables; packages/backend-cuda/src/kernels.ts has the same, which a test compares. HD >= D, Dv. */
template <class T, int HD>
struct ForwardTile {
  // 2 warps where float32 rows of 256 have to fit 99 KiB with their keys.
  static constexpr int WARPS = sizeof(T) == 4 && HD == 256 ? 2 : 4;
  static constexpr int Q = 16 * WARPS;
  static constexpr int KV = sizeof(T) == 4 ? 32 : 64;
  static constexpr int THREADS = 32 * WARPS;
  static constexpr int ROW_BYTES = HD * static_cast<int>(sizeof(T));
  static constexpr int SHARED_BYTES = (Q + 2 * KV) * ROW_BYTES;
};

template <class T, int HD, bool GENERAL>
__global__ void __launch_bounds__(ForwardTile<T, HD>::THREADS) forward(const Attention p) {
  using Sizes = ForwardTile<T, HD>;
  constexpr int BR = Sizes::Q, BC = Sizes::KV, THREADS = Sizes::THREADS;
  const u32 q_smem = 0, k_smem = BR * Sizes::ROW_BYTES, v_smem = k_smem + BC * Sizes::ROW_BYTES;

  // setup: which rows, the last first, since with causal they have the most keys
  const int rows = p.group * p.Sq, rowBlocks = (rows + p.tileQ - 1) / p.tileQ, headBlocks = p.H / p.group;
  i64 index = blockIdx.x;
  const int rowBlock = rowBlocks - 1 - static_cast<int>(index % rowBlocks);
  index /= rowBlocks;
  const int split = static_cast<int>(index % p.splits);
  index /= p.splits;
  const int firstHead = static_cast<int>(index % headBlocks) * p.group, b = static_cast<int>(index / headBlocks);
  const int keyHead = firstHead / (p.H / p.Hkv);
  const int firstRow = rowBlock * p.tileQ, endRow = least(firstRow + p.tileQ, rows);

  const T* q_gmem = static_cast<const T*>(p.q_gmem);
  const T* k_gmem = static_cast<const T*>(p.k_gmem) + offset_of(p.k, b, keyHead, 0);
  const T* v_gmem = static_cast<const T*>(p.v_gmem) + offset_of(p.v, b, keyHead, 0);

  const int warpRow = 16 * warp_id(), g = lane_id() >> 2, t = lane_id() & 3;
  Query query[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = firstRow + warpRow + g + 8 * half;
    query[half] = query_at<GENERAL>(p, b, firstHead + row / p.Sq, row % p.Sq, row < endRow);
  }

  // The keys that some row of the block sees, and those that all see: rows of several heads have any i.
  const bool oneHead = firstRow / p.Sq == (endRow - 1) / p.Sq;
  const int firstI = oneHead ? firstRow % p.Sq : 0, lastI = oneHead ? (endRow - 1) % p.Sq : p.Sq - 1;
  int begin = most(firstI + p.lo, 0), end = least(lastI + p.hi + 1, p.Skv);
  const int fullBegin = lastI + p.lo, fullEnd = least(firstI + p.hi + 1, p.Skv);
  begin = begin / p.tileKV * p.tileKV;
  if (p.splits > 1) {
    const int tiles = (p.Skv + p.tileKV - 1) / p.tileKV, each = (tiles + p.splits - 1) / p.splits * p.tileKV;
    begin = most(begin, split * each);
    end = static_cast<int>(least<i64>(end, (split + i64{1}) * each));
  }

  // s and m are scores in this unit: q.k themselves, or what the score program makes of them.
  const bool raw = !GENERAL || p.raw;
  const float unit = raw ? p.scale : 1.f, toLog2 = unit * LOG2E;
  float m[2], l[2];
  Fragment acc_reg[HD / 8];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const bool counts = GENERAL && query[half].there && split == 0;
    m[half] = counts ? sink_of(p, query[half].h) : NEGATIVE_INFINITY;
    // One of the four lanes of a row has the sink's share; they are summed in the end.
    l[half] = m[half] == NEGATIVE_INFINITY || t != 0 ? 0.f : 1.f;
  }
#pragma unroll
  for (int n = 0; n < HD / 8; n++) {
#pragma unroll
    for (int e = 0; e < 4; e++) acc_reg[n][e] = 0.f;
  }

  const auto load_keys = [&](u32 tile_smem, const T* from_gmem, i64 stride, int j0, int dim, bool aligned) {
    const int j1 = least(j0 + p.tileKV, end);
    const auto at = [&](int row) -> const T* { return j0 + row < j1 ? from_gmem + (j0 + row) * stride : nullptr; };
    load_tile<T, HD, BC, THREADS>(tile_smem, from_gmem, at, dim, aligned);
  };

  if (begin < end) {
    load_tile<T, HD, BR, THREADS>(
        q_smem, q_gmem,
        [&](int row) -> const T* {
          const int at = firstRow + row;
          return at < endRow ? q_gmem + offset_of(p.q, b, firstHead + at / p.Sq, at % p.Sq) : nullptr;
        },
        p.D, p.qkAligned);
    load_keys(k_smem, k_gmem, p.k.row, begin, p.D, p.qkAligned);
    cp_async_commit();
  }

#pragma unroll 1
  for (int j0 = begin; j0 < end; j0 += p.tileKV) {
    const int j1 = least(j0 + p.tileKV, end);
    const bool full = j0 >= fullBegin && j1 <= fullEnd && j1 - j0 == BC && !(GENERAL && p.mask_gmem);

    // load: v while the scores are made
    load_keys(v_smem, v_gmem, p.v.row, j0, p.Dv, p.vAligned);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();

    // scores: s [Br, Bc]; -Infinity where hidden
    Fragment s_reg[BC / 8];
    multiply_rows<T, HD, BC>(s_reg, q_smem, warpRow, k_smem, p.D);
    __syncthreads();
    if (j1 < end) load_keys(k_smem, k_gmem, p.k.row, j1, p.D, p.qkAligned);
    cp_async_commit();

    const auto sees = [&](int half, int column) {
      const int j = j0 + column;
      return j < j1 && visible<GENERAL>(p, query[half], j);
    };
#pragma unroll
    for (int n = 0; n < BC / 8; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int column = 8 * n + 2 * t + (e & 1);
        const Query& q = query[e >> 1];
        const bool seen = full ? !GENERAL || q.there : sees(e >> 1, column);
        if (!seen) s_reg[n][e] = NEGATIVE_INFINITY;
        else if (!raw) s_reg[n][e] = score_of<GENERAL>(p, q, j0 + column, s_reg[n][e]);
      }
    }

    // softmax: p [Br, Bc], in place
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float max = NEGATIVE_INFINITY;
#pragma unroll
      for (int n = 0; n < BC / 8; n++) max = fmaxf(max, fmaxf(s_reg[n][2 * half], s_reg[n][2 * half + 1]));
      max = fmaxf(m[half], quad_max(max));
      const float base = subtrahend(max), alpha = exp2_approx((m[half] - base) * toLog2);
      float sum = 0.f;
#pragma unroll
      for (int n = 0; n < BC / 8; n++) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; e++) {
          s_reg[n][e] = exp2_approx((s_reg[n][e] - base) * toLog2);
          sum += s_reg[n][e];
        }
      }
      l[half] = l[half] * alpha + sum;
      m[half] = max;
#pragma unroll
      for (int n = 0; n < HD / 8; n++) {
        acc_reg[n][2 * half] *= alpha;
        acc_reg[n][2 * half + 1] *= alpha;
      }
    }
    if constexpr (GENERAL) {
      if (p.hasDropout) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          int group = -1;
          Draws draws = {};
#pragma unroll
          for (int n = 0; n < BC / 8; n++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
              const int j = j0 + 8 * n + 2 * t + e;
              if (j >> 3 != group) draws = draws_of(p.dropout, group = j >> 3, query[half].i, b * p.H + query[half].h);
              if (!keeps(p.dropout, draws, j)) s_reg[n][2 * half + e] = 0.f;
            }
          }
        }
      }
    }

    // accumulate: acc [Br, Dv] += p v
    cp_async_wait<1>();
    __syncthreads();
    if (!full) take_out_nan<T, HD, BC, HD, THREADS>(acc_reg, v_smem, 0, p.Dv, sees);
    multiply_columns<T, HD, BC, HD>(acc_reg, s_reg, v_smem, 0, p.Dv);
    __syncthreads();
  }

  // finish: out [Br, Dv], lse [Br]. A row that saw nothing has l = 0.
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float sum = quad_sum(l[half]);
    const Query& q = query[half];
    if (!q.there) continue;
    const i64 at = (b * i64{p.H} + q.h) * p.Sq + q.i;
    const float lse = sum == 0.f ? NEGATIVE_INFINITY : m[half] * unit + logf(sum);
    const float keep = p.hasDropout ? p.dropout.scale : 1.f;
    const float factor = sum == 0.f ? 0.f : keep / sum;
    const auto result = [&](float x) { return sum == 0.f ? 0.f : x * factor; };
    if (p.splits > 1) {
      const i64 part = split * (i64{p.B} * p.H * p.Sq) + at;
      if (t == 0) p.partialLse_gmem[part] = lse;
#pragma unroll
      for (int n = 0; n < HD / 8; n++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int d = 8 * n + 2 * t + e;
          if (d < p.Dv) p.partial_gmem[part * p.Dv + d] = result(acc_reg[n][2 * half + e]);
        }
      }
      continue;
    }
    if (t == 0 && p.lse_gmem) p.lse_gmem[at] = lse;
    T* out_gmem = static_cast<T*>(p.out_gmem) + offset_of(p.out, b, q.h, q.i);
#pragma unroll
    for (int n = 0; n < HD / 8; n++) {
      const int d = 8 * n + 2 * t;
      const float first = finite_or_nan(result(acc_reg[n][2 * half]));
      const float second = finite_or_nan(result(acc_reg[n][2 * half + 1]));
      if (d < p.Dv) from_float(out_gmem[d], first);
      if (d + 1 < p.Dv) from_float(out_gmem[d + 1], second);
    }
  }
}

}  // namespace fa
