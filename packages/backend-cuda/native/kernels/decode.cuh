// Attention forward for a few rows and many keys, sm_80 and up: 16 rows at most, which are the queries of all heads that share a key
// head. Nothing but reading K and V counts, so each warp of a block reads keys of its own, and waits for no other until the end.
//
// A warp takes every WARPS-th tile of the block's keys. Its tiles, K and V in turn, go through a ring of STAGES in shared memory,
// and are loaded STAGES - 1 ahead. Where the rows are too few to fill the device, keys are split over blocks, and the last of
// them to end combines the pieces.
//
//   setup       m, l [16], acc [16, Dv] a warp; q to shared memory
//   load        k [Bc, D], v [Bc, Dv] by cp.async, ahead
//   scores      s [16, Bc] = program(q k^T)
//   softmax     p [16, Bc] = e^(s - m), l; what came before is rescaled to the new max
//   accumulate  acc [16, Dv] += dropout(p) v
//   finish      the warps' m, l and acc are combined, then those of the splits: out = acc / l, lse = m + log l
//
// Flash-Decoding: Dao, Haziza, Massa, Sizov, 2023.
#pragma once

#include "combine.cuh"

namespace fa {

/** Tunables; packages/backend-cuda/src/kernels.ts has the same, which a test compares. HD >= D, Dv. */
template <class T, int HD>
struct DecodeTile {
  static constexpr int ROW_BYTES = HD * static_cast<int>(sizeof(T));
  static constexpr int Q = 16;
  /** Keys of a warp's tile: what makes 4 KiB, but a product takes 16. */
  static constexpr int KV = most(16, 4096 / ROW_BYTES);
  static constexpr int TILE_BYTES = KV * ROW_BYTES;
  static constexpr int STAGES = 4;
  static constexpr int WARPS = 16384 / TILE_BYTES;
  static constexpr int THREADS = 32 * WARPS;
  static constexpr int SHARED_BYTES = Q * ROW_BYTES + WARPS * STAGES * TILE_BYTES;
};

/** GENERAL: any option, any D and Dv, any alignment; otherwise D = Dv = HD, and only what a band hides is hidden. */
template <class T, int HD, bool GENERAL>
__global__ void __launch_bounds__(DecodeTile<T, HD>::THREADS) decode(const Attention p) {
  using Sizes = DecodeTile<T, HD>;
  const int D = GENERAL ? p.D : HD, Dv = GENERAL ? p.Dv : HD;
  const bool qkAligned = !GENERAL || p.qkAligned, vAligned = !GENERAL || p.vAligned;
  constexpr int BC = Sizes::KV, STAGES = Sizes::STAGES, WARPS = Sizes::WARPS, THREADS = Sizes::THREADS;
  constexpr u32 q_smem = 0;
  const u32 ring_smem = Sizes::Q * Sizes::ROW_BYTES + warp_id() * STAGES * Sizes::TILE_BYTES;
  const int stride = WARPS * p.tileKV;

  // setup
  const Block block = block_at(p, blockIdx.x, stride);
  const T* q_gmem = static_cast<const T*>(p.q_gmem);
  const T* k_gmem = static_cast<const T*>(p.k_gmem) + offset_of(p.k, block.b, block.keyHead, 0);
  const T* v_gmem = static_cast<const T*>(p.v_gmem) + offset_of(p.v, block.b, block.keyHead, 0);
  Rows rows = rows_of<GENERAL>(p, block, block.firstRow);
  if (warp_id() > 0) rows.l[0] = rows.l[1] = 0.f;
  Fragment acc_reg[HD / 8] = {};

  // load: of this warp's tiles, K and V in turn, the next into the next stage of the ring
  int loadAt = block.begin + warp_id() * p.tileKV, loadStage = 0;
  bool loadV = false;
  const auto load_next = [&] {
    if (loadAt < block.end) {
      const T* from_gmem = loadV ? v_gmem : k_gmem;
      const i64 rowElems = loadV ? p.v.row : p.k.row;
      const int j0 = loadAt, j1 = least(j0 + p.tileKV, block.end);
      const u32 to_smem = ring_smem + loadStage * Sizes::TILE_BYTES;
      if (!GENERAL && j1 - j0 == BC) {
        load_whole<T, HD, BC, 32>(to_smem, from_gmem + j0 * rowElems, rowElems);
      } else {
        const auto at = [&](int row) -> const T* { return j0 + row < j1 ? from_gmem + (j0 + row) * rowElems : nullptr; };
        load_tile<T, HD, BC, 32>(to_smem, from_gmem, at, loadV ? Dv : D, loadV ? vAligned : qkAligned);
      }
      if (loadV) loadAt += stride;
      loadV = !loadV;
      loadStage = loadStage + 1 == STAGES ? 0 : loadStage + 1;
    }
    cp_async_commit();
  };
  int stage = 0;
  /** The next tile of the ring, as soon as it is there; the one before is given up. */
  const auto next_tile = [&] {
    cp_async_wait<STAGES - 2>();
    __syncwarp();
    load_next();
    const u32 tile_smem = ring_smem + stage * Sizes::TILE_BYTES;
    stage = stage + 1 == STAGES ? 0 : stage + 1;
    return tile_smem;
  };

  load_tile<T, HD, Sizes::Q, THREADS>(
      q_smem, q_gmem,
      [&](int row) -> const T* {
        const int at = block.firstRow + row;
        return at < block.endRow ? q_gmem + offset_of(p.q, block.b, block.firstHead + at / p.Sq, at % p.Sq) : nullptr;
      },
      D, qkAligned);
  cp_async_commit();
#pragma unroll
  for (int n = 0; n < STAGES - 1; n++) load_next();
  cp_async_wait<STAGES - 1>();
  __syncthreads();

#pragma unroll 1
  for (int j0 = block.begin + warp_id() * p.tileKV; j0 < block.end; j0 += stride) {
    const int j1 = least(j0 + p.tileKV, block.end);
    const bool full = j0 >= block.fullBegin && j1 <= block.fullEnd && j1 - j0 == BC && !(GENERAL && p.mask_gmem);
    const auto sees = [&](int half, int column) {
      const int j = j0 + column;
      return j < j1 && visible<GENERAL>(p, rows.query[half], j);
    };

    // scores, softmax
    Fragment p_reg[BC / 8];
    multiply_rows<T, HD, BC>(p_reg, q_smem, 0, next_tile(), D);
    score_tile<GENERAL, BC>(p_reg, p, rows, j0, full, sees);
    softmax_tile<BC, HD>(p_reg, acc_reg, rows);
    if constexpr (GENERAL) {
      if (p.hasDropout) drop_tile<BC>(p_reg, p, rows, j0);
    }

    // accumulate
    const u32 v_smem = next_tile();
    if (!full) take_out_nan<T, HD, BC, HD, 32>(acc_reg, v_smem, 0, Dv, sees);
    multiply_columns<T, HD, BC, HD>(acc_reg, p_reg, v_smem, 0, Dv);
  }
  cp_async_wait<0>();
  __syncthreads();

  // finish: m, l [WARPS, 16] and acc [WARPS, 16, HD] to where the tiles were
  float* m_all = reinterpret_cast<float*>(shared_at(0));
  float *l_all = m_all + WARPS * 16, *acc_all = l_all + WARPS * 16;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = warp_id() * 16 + (lane_id() >> 2) + 8 * half, t = lane_id() & 3;
    const float l = quad_sum(rows.l[half]);
    if (!rows.query[half].there) continue;
    if (t == 0) m_all[row] = rows.m[half], l_all[row] = l;
#pragma unroll
    for (int n = 0; n < HD / 8; n++) {
#pragma unroll
      for (int e = 0; e < 2; e++) acc_all[row * HD + 8 * n + 2 * t + e] = acc_reg[n][2 * half + e];
    }
  }
  __syncthreads();
  for (int n = threadIdx.x; n < (block.endRow - block.firstRow) * HD; n += THREADS) {
    const int row = n / HD, d = n % HD, i = (block.firstRow + row) % p.Sq;
    if (d >= p.Dv) continue;
    float m = NEGATIVE_INFINITY, l = 0.f, x = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) m = fmaxf(m, m_all[w * 16 + row]);
    const float base = subtrahend(m);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const float weight = exp2_approx((m_all[w * 16 + row] - base) * rows.c);
      l = fmaf(l_all[w * 16 + row], weight, l);
      x = fmaf(acc_all[(w * 16 + row) * HD + d], weight, x);
    }
    const int h = block.firstHead + (block.firstRow + row) / p.Sq;
    const i64 at = row_index(p, block.b, h, i);
    // Where l is 0, acc may be anything that was multiplied by 0.
    x = l == 0.f ? 0.f : x * out_factor(p, l);
    if (p.splits > 1) {
      const i64 part = block.split * (i64{p.B} * p.H * p.Sq) + at;
      p.partial_gmem[part * p.Dv + d] = x;
      if (d == 0) p.partialLse_gmem[part] = lse_of(m, rows.unit, l);
    } else {
      from_float(static_cast<T*>(p.out_gmem)[offset_of(p.out, block.b, h, i) + d], finite_or_nan(x));
      if (d == 0 && p.lse_gmem) p.lse_gmem[at] = lse_of(m, rows.unit, l);
    }
  }
  if (p.splits == 1) return;

  // The last block of these rows to come here combines what all have written; it leaves the counter as it was.
  __threadfence();
  __syncthreads();
  unsigned* counter_gmem = p.counters_gmem + block.counter;
  bool last = false;
  if (threadIdx.x == 0) {
    last = atomicAdd(counter_gmem, 1u) == static_cast<unsigned>(p.splits - 1);
    if (last) *counter_gmem = 0;
  }
  if (!__syncthreads_or(last)) return;
  __threadfence();
  for (int row = block.firstRow + warp_id(); row < block.endRow; row += WARPS) {
    const int h = block.firstHead + row / p.Sq;
    combine_row<T>(p, row_index(p, block.b, h, row % p.Sq), warp_id() * COMBINE_BYTES_A_WARP);
  }
}

}  // namespace fa
