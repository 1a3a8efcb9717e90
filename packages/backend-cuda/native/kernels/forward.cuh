// Attention forward on mma.sync and cp.async, sm_80 and up: every dtype of 16 bits and float32, every option, every head dim.
//
// A block of 32 WARPS threads owns Br = 16 M WARPS rows; a row is a query of one of `group` heads that share a key head. K and V
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

#include "lib/rows.cuh"

namespace fa {

/** Tunables; packages/backend-cuda/src/kernels.ts has the same, which a test compares. HD >= D, Dv. */
template <class T, int HD, bool GENERAL>
struct ForwardTile {
  // 32 rows a warp halve what is loaded of K and V, where there are registers for them.
  static constexpr int M = HD == 256 || GENERAL ? 1 : 2;
  // With their keys in 99 KiB.
  static constexpr int Q = HD < 256 ? 128 : sizeof(T) == 2 ? 64 : 32;
  static constexpr int KV = sizeof(T) == 4 ? 32 : 64;
  static constexpr int WARPS = Q / (16 * M);
  static constexpr int THREADS = 32 * WARPS;
  static constexpr int ROW_BYTES = HD * static_cast<int>(sizeof(T));
  static constexpr int SHARED_BYTES = (Q + 2 * KV) * ROW_BYTES;
};

/** GENERAL: any option, any D and Dv, any alignment; otherwise D = Dv = HD, and only what a band hides is hidden. */
template <class T, int HD, bool GENERAL>
__global__ void __launch_bounds__(ForwardTile<T, HD, GENERAL>::THREADS) forward(const Attention p) {
  using Sizes = ForwardTile<T, HD, GENERAL>;
  constexpr int BR = Sizes::Q, BC = Sizes::KV, THREADS = Sizes::THREADS, M = Sizes::M;
  const u32 q_smem = 0, k_smem = BR * Sizes::ROW_BYTES, v_smem = k_smem + BC * Sizes::ROW_BYTES;
  const int D = GENERAL ? p.D : HD, Dv = GENERAL ? p.Dv : HD;
  const bool qkAligned = !GENERAL || p.qkAligned, vAligned = !GENERAL || p.vAligned;

  // setup
  const Block block = block_at(p, blockIdx.x, p.tileKV);
  const T* q_gmem = static_cast<const T*>(p.q_gmem);
  const T* k_gmem = static_cast<const T*>(p.k_gmem) + offset_of(p.k, block.b, block.keyHead, 0);
  const T* v_gmem = static_cast<const T*>(p.v_gmem) + offset_of(p.v, block.b, block.keyHead, 0);
  const int warpRow = 16 * M * warp_id(), t = lane_id() & 3, end = block.end;
  Rows rows[M];
#pragma unroll
  for (int m = 0; m < M; m++) rows[m] = rows_of<GENERAL>(p, block, block.firstRow + warpRow + 16 * m);
  Fragment acc_reg[M][HD / 8] = {};

  const auto load_keys = [&](u32 tile_smem, const T* from_gmem, i64 stride, int j0, int dim, bool aligned) {
    const int j1 = least(j0 + p.tileKV, end);
    if (!GENERAL && j1 - j0 == BC) return load_whole<T, HD, BC, THREADS>(tile_smem, from_gmem + j0 * stride, stride);
    const auto at = [&](int row) -> const T* { return j0 + row < j1 ? from_gmem + (j0 + row) * stride : nullptr; };
    load_tile<T, HD, BC, THREADS>(tile_smem, from_gmem, at, dim, aligned);
  };

  if (block.begin < end) {
    load_tile<T, HD, BR, THREADS>(
        q_smem, q_gmem,
        [&](int row) -> const T* {
          const int at = block.firstRow + row;
          return at < block.endRow ? q_gmem + offset_of(p.q, block.b, block.firstHead + at / p.Sq, at % p.Sq) : nullptr;
        },
        D, qkAligned);
    load_keys(k_smem, k_gmem, p.k.row, block.begin, D, qkAligned);
    cp_async_commit();
  }

#pragma unroll 1
  for (int j0 = block.begin; j0 < end; j0 += p.tileKV) {
    const int j1 = least(j0 + p.tileKV, end);
    const bool full = j0 >= block.fullBegin && j1 <= block.fullEnd && j1 - j0 == BC && !(GENERAL && p.mask_gmem);
    const auto sees = [&](int m, int half, int column) {
      const int j = j0 + column;
      return j < j1 && visible<GENERAL>(p, rows[m].query[half], j);
    };

    // load: v while the scores are made
    load_keys(v_smem, v_gmem, p.v.row, j0, Dv, vAligned);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();

    // scores: s [Br, Bc]
    Fragment s_reg[M][BC / 8];
    multiply_rows<T, HD, BC, M>(s_reg, q_smem, warpRow, k_smem, D);
    __syncthreads();
    if (j1 < end) load_keys(k_smem, k_gmem, p.k.row, j1, D, qkAligned);
    cp_async_commit();

    // softmax: p [Br, Bc], in place
#pragma unroll
    for (int m = 0; m < M; m++) {
      score_tile<GENERAL, BC>(s_reg[m], p, rows[m], j0, full, [&](int half, int column) { return sees(m, half, column); });
      softmax_tile<BC, HD>(s_reg[m], acc_reg[m], rows[m]);
      if constexpr (GENERAL) {
        if (p.hasDropout) drop_tile<BC>(s_reg[m], p, rows[m], j0);
      }
    }

    // accumulate: acc [Br, Dv] += p v
    cp_async_wait<1>();
    __syncthreads();
    if (!full) take_out_nan<T, HD, BC, HD, THREADS, M>(acc_reg, v_smem, 0, Dv, sees);
    multiply_columns<T, HD, BC, HD, M>(acc_reg, s_reg, v_smem, 0, Dv);
    __syncthreads();
  }

  // finish: out [Br, Dv], lse [Br]
#pragma unroll
  for (int m = 0; m < M; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float l = quad_sum(rows[m].l[half]), factor = out_factor(p, l), lse = lse_of(rows[m].m[half], rows[m].unit, l);
      const Query q = query_of<GENERAL>(p, block, block.firstRow + warpRow + 16 * m + (lane_id() >> 2) + 8 * half);
      if (!q.there) continue;
      const i64 at = row_index(p, block.b, q.h, q.i);
      // Where l is 0, acc may be anything that was multiplied by 0.
      const auto result = [&](float x) { return l == 0.f ? 0.f : x * factor; };
      if (p.splits > 1) {
        const i64 part = block.split * (i64{p.B} * p.H * p.Sq) + at;
        if (t == 0) p.partialLse_gmem[part] = lse;
#pragma unroll
        for (int n = 0; n < HD / 8; n++) {
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const int d = 8 * n + 2 * t + e;
            if (d < Dv) p.partial_gmem[part * Dv + d] = result(acc_reg[m][n][2 * half + e]);
          }
        }
        continue;
      }
      if (t == 0 && p.lse_gmem) p.lse_gmem[at] = lse;
      T* out_gmem = static_cast<T*>(p.out_gmem) + offset_of(p.out, block.b, q.h, q.i);
#pragma unroll
      for (int n = 0; n < HD / 8; n++) {
        const int d = 8 * n + 2 * t;
        const float first = finite_or_nan(result(acc_reg[m][n][2 * half]));
        const float second = finite_or_nan(result(acc_reg[m][n][2 * half + 1]));
        if constexpr (sizeof(T) == 2 && !GENERAL) {
          *reinterpret_cast<u32*>(out_gmem + d) = pack2<T>(first, second);
        } else {
          if (d < Dv) from_float(out_gmem[d], first);
          if (d + 1 < Dv) from_float(out_gmem[d + 1], second);
        }
      }
    }
  }
}

}  // namespace fa
