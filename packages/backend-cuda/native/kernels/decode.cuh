// Attention forward for a few rows and many keys, sm_80 and up: the rows of a block are the queries of all heads that share a key head,
// 8 at most. Nothing but reading K and V counts: they go from memory straight to registers, those in which tensor cores want them, and
// a warp takes keys of its own, and waits for no other until the end.
//
// Where the rows are too few to fill the device, keys are split over blocks, and the last of them to end combines the pieces.
//
//   setup       m, l [8], acc^T [Dv, 8] a warp; q to registers
//   load        k [16, D], v [16, Dv], each as soon as there is room for it
//   scores      s^T [16, 8] = program(k q^T)
//   softmax     p [8, 16] = e^(s - m), l; what came before is rescaled to the new max
//   accumulate  acc^T [Dv, 8] += v^T dropout(p)^T
//   finish      the warps' m, l and acc are combined, then those of the splits: out = acc / l, lse = m + log l
//
// The terms of a sum may come in any order, and the rows of acc^T too. So a lane loads chunks of 16 bytes and takes its words for those
// that its place in a fragment calls for. Lane 4 g + t has
//
//   of k and q   keys g and g + 8, row g: chunks t, t + 4, ...
//   of s, p      keys g and g + 8 of rows 2 t and 2 t + 1
//   of v         keys 2 t, 2 t + 1, 2 t + 8, 2 t + 9: chunks g, g + 8, ...
//   of acc       those same chunks, of rows 2 t and 2 t + 1
//
// Flash-Decoding: Dao, Haziza, Massa, Sizov, 2023.
#pragma once

#include "combine.cuh"

namespace fa {

/** Tunables; packages/backend-cuda/src/kernels.ts has the same, which a test compares. HD >= D, Dv. */
template <class T, int HD>
struct DecodeTile {
  static constexpr int Q = 8;
  /** Keys of a warp's tile. */
  static constexpr int KV = 16;
  /** With all that its registers hold on the way, more than keeps memory busy. */
  static constexpr int WARPS = 8;
  static constexpr int THREADS = 32 * WARPS;
  static constexpr int ROW_BYTES = HD * static_cast<int>(sizeof(T));
  /** What a warp holds of a row at a time. */
  static constexpr int PIECE_BYTES = ROW_BYTES <= 512 ? ROW_BYTES : 256;
  /** Whether there are registers for K and V at once. */
  static constexpr bool BOTH = ROW_BYTES <= 256;
  /** In the end, m, l and acc of each warp, and then weights of the pieces of split keys. */
  static constexpr int SHARED_BYTES = WARPS * most(Q * (HD + 2) * 4, COMBINE_BYTES_A_WARP);
};

/** Elements `first` and following of a row, zeros from `dim` on. */
template <class T, bool GENERAL>
FA_DEVICE Chunk load_chunk(const T* row_gmem, int first, int dim, bool aligned) {
  Chunk words = {};
  if (GENERAL && first >= dim) return words;
  if (aligned) {
    load16(words.word, row_gmem + first);
    return words;
  }
#pragma unroll
  for (int e = 0; e < Tile<T, 64>::CHUNK_ELEMS; e++)
    if (first + e < dim) put_element(words, e, row_gmem[first + e]);
  return words;
}

/** Fragments of p^T, ready to be multiplied, from the scores of this warp: one for 16 keys, or two for 8 each. */
template <class T>
FA_DEVICE void transposed(OperandB<T> (&b)[16 / ROWS_A_STEP<T>], const Fragment& p_reg) {
  if constexpr (sizeof(T) == 2) {
    b[0].b0 = transpose_8x8(pack2<T>(p_reg[0], p_reg[1]));
    b[0].b1 = transpose_8x8(pack2<T>(p_reg[2], p_reg[3]));
  } else {
    // Keys 2 t go to place t, keys 2 t + 1 to place t + 4.
    const int lane = lane_id(), from = 8 * (lane & 3) + (lane >> 3);
    const bool odd = lane & 4;
#pragma unroll
    for (int step = 0; step < 2; step++) {
      u32 word[2];
#pragma unroll
      for (int k = 0; k < 2; k++) {
        const float even_row = __shfl_sync(~0u, p_reg[2 * step], from + 4 * k);
        const float odd_row = __shfl_sync(~0u, p_reg[2 * step + 1], from + 4 * k);
        word[k] = float_bits(odd ? odd_row : even_row);
      }
      b[step] = OperandB<T>(word[0], word[1]);
    }
  }
}

FA_DEVICE u32 low_halves(u32 first, u32 second) { return (first & 0xffffu) | second << 16; }
FA_DEVICE u32 high_halves(u32 first, u32 second) { return first >> 16 | (second & 0xffff0000u); }

/**
 * Before v^T p^T where some pairs are hidden: 0 times NaN is NaN, so what is not finite is taken out of v, and put as NaN into the sums
 * of those rows that see it.
 * @param sees (e, key): whether row 2 t + e sees the tile's key
 */
template <class T, int CHUNKS, int PAIRS, class Sees>
FA_DEVICE void take_nan_out_of(Chunk (&v_reg)[4][CHUNKS], Fragment (&acc_reg)[CHUNKS][PAIRS], const Sees& sees) {
  constexpr int ELEMS = 2 * PAIRS;
  bool found = false;
#pragma unroll
  for (int n = 0; n < 4 * CHUNKS * ELEMS; n++)
    found = found || !is_finite(get_element<T>(v_reg[n / ELEMS / CHUNKS][n / ELEMS % CHUNKS], n % ELEMS));
  if (!team_or<32>(found)) return;
  // The four lanes of a g have the same columns of acc, and the keys among them.
#pragma unroll 1
  for (int other = 0; other < 4; other++) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const int key = 2 * ((lane_id() & 3) ^ other) + (k & 1) + 4 * (k & 2);
      const bool seen[2] = {sees(0, key), sees(1, key)};
#pragma unroll
      for (int i = 0; i < CHUNKS; i++) {
        Chunk theirs;
#pragma unroll
        for (int w = 0; w < 4; w++) theirs.word[w] = __shfl_xor_sync(~0u, v_reg[k][i].word[w], other);
#pragma unroll
        for (int n = 0; n < ELEMS; n++) {
          if (is_finite(get_element<T>(theirs, n))) continue;
#pragma unroll
          for (int e = 0; e < 2; e++)
            if (seen[e]) acc_reg[i][n / 2][n % 2 * 2 + e] = quiet_nan();
        }
      }
    }
  }
#pragma unroll
  for (int k = 0; k < 4; k++) {
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
      Chunk finite = {};
#pragma unroll
      for (int n = 0; n < ELEMS; n++) {
        const T x = get_element<T>(v_reg[k][i], n);
        if (is_finite(x)) put_element(finite, n, x);
      }
      v_reg[k][i] = finite;
    }
  }
}

/** GENERAL: any option, any D and Dv, any alignment; otherwise D = Dv = HD, and only what a band hides is hidden. */
template <class T, int HD, bool GENERAL>
__global__ void __launch_bounds__(DecodeTile<T, HD>::THREADS, 1) decode(const Attention p) {
  using Sizes = DecodeTile<T, HD>;
  constexpr int BR = Sizes::Q, BC = Sizes::KV, WARPS = Sizes::WARPS, THREADS = Sizes::THREADS;
  constexpr int ELEMS = Tile<T, HD>::CHUNK_ELEMS, PIECES = Sizes::ROW_BYTES / Sizes::PIECE_BYTES;
  // Chunks of a lane in a piece: of a row of k or q, and of a row of v.
  constexpr int K_CHUNKS = Sizes::PIECE_BYTES / 64, V_CHUNKS = Sizes::PIECE_BYTES / 128;
  const int D = GENERAL ? p.D : HD, Dv = GENERAL ? p.Dv : HD;
  const bool qkAligned = !GENERAL || p.qkAligned, vAligned = !GENERAL || p.vAligned;
  const int g = lane_id() >> 2, t = lane_id() & 3;
  const int stride = WARPS * p.tileKV;

  // setup
  const Block block = block_at(p, blockIdx.x, stride);
  const T* k_gmem = static_cast<const T*>(p.k_gmem) + offset_of(p.k, block.b, block.keyHead, 0);
  const T* v_gmem = static_cast<const T*>(p.v_gmem) + offset_of(p.v, block.b, block.keyHead, 0);
  const bool raw = raw_scores<GENERAL>(p);
  const float unit = raw ? p.scale : 1.f, c = product(unit, LOG2E);
  Query query[2];
  float m[2], l[2];
#pragma unroll
  for (int e = 0; e < 2; e++) {
    query[e] = query_of<GENERAL>(p, block, block.firstRow + 2 * t + e);
    m[e] = GENERAL && query[e].there && block.split == 0 ? sink_of(p, query[e].h) : NEGATIVE_INFINITY;
    // One lane of one warp has the sink's share of a row.
    l[e] = m[e] == NEGATIVE_INFINITY || g != 0 || warp_id() != 0 ? 0.f : 1.f;
  }
  Fragment acc_reg[HD / 16] = {};

  Chunk q_reg[PIECES * K_CHUNKS];
  {
    // What rows that are not there come to is not written.
    const int row = least(block.firstRow + g, block.endRow - 1);
    const T* row_gmem = static_cast<const T*>(p.q_gmem) + offset_of(p.q, block.b, block.firstHead + row / p.Sq, row % p.Sq);
#pragma unroll
    for (int n = 0; n < PIECES * K_CHUNKS; n++) q_reg[n] = load_chunk<T, GENERAL>(row_gmem, (4 * n + t) * ELEMS, D, qkAligned);
  }

  // load: the last key in place of those past the end
  Chunk k_reg[2][K_CHUNKS], v_reg[4][V_CHUNKS];
  const auto load_k = [&](int j0, int piece) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
      const T* row_gmem = k_gmem + least(j0 + g + 8 * n, block.end - 1) * p.k.row;
#pragma unroll
      for (int i = 0; i < K_CHUNKS; i++)
        k_reg[n][i] = load_chunk<T, GENERAL>(row_gmem, (4 * (piece * K_CHUNKS + i) + t) * ELEMS, D, qkAligned);
    }
  };
  const auto load_v = [&](int j0, int piece) {
#pragma unroll
    for (int n = 0; n < 4; n++) {
      const T* row_gmem = v_gmem + least(j0 + 2 * t + (n & 1) + 4 * (n & 2), block.end - 1) * p.v.row;
#pragma unroll
      for (int i = 0; i < V_CHUNKS; i++)
        v_reg[n][i] = load_chunk<T, GENERAL>(row_gmem, (8 * (piece * V_CHUNKS + i) + g) * ELEMS, Dv, vAligned);
    }
  };

  int j0 = block.begin + warp_id() * p.tileKV;
  if (Sizes::BOTH && j0 < block.end) load_k(j0, 0), load_v(j0, 0);
#pragma unroll 1
  for (; j0 < block.end; j0 += stride) {
    const int j1 = least(j0 + p.tileKV, block.end), next = j0 + stride;
    const bool full = j0 >= block.fullBegin && j1 <= block.fullEnd && j1 - j0 == BC && !(GENERAL && p.mask_gmem);
    const auto sees = [&](int e, int j) { return j < j1 && visible<GENERAL>(p, query[e], j); };

    // scores: s^T [16, 8]
    Fragment s_half[2] = {};
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
      if (!Sizes::BOTH) load_k(j0, piece);
#pragma unroll
      for (int i = 0; i < K_CHUNKS; i++) {
        const Chunk &q = q_reg[piece * K_CHUNKS + i], &k = k_reg[0][i], &k8 = k_reg[1][i];
        Fragment fresh = {};
#pragma unroll
        for (int step = 0; step < 2; step++) {
          const u32 a[4] = {k.word[2 * step], k8.word[2 * step], k.word[2 * step + 1], k8.word[2 * step + 1]};
          // float32: sums leave the tensor core after every second step, and are added rounded.
          multiply(sizeof(T) == 2 ? s_half[step] : fresh, OperandA<T>(a), OperandB<T>(q.word[2 * step], q.word[2 * step + 1]));
        }
        if (sizeof(T) == 4) add(s_half[i % 2], fresh);
      }
    }
    add(s_half[0], s_half[1]);
    Fragment& s_reg = s_half[0];
    if (!Sizes::BOTH) load_v(j0, 0);
    else if (next < block.end) load_k(next, 0);

    // softmax: p, in place
    if (!full || !raw) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int j = j0 + g + 4 * (e & 2);
        const Query& q = query[e & 1];
        if (!(full ? q.there : sees(e & 1, j))) s_reg[e] = NEGATIVE_INFINITY;
        else if (!raw) s_reg[e] = score_of<GENERAL>(p, q, j, s_reg[e]);
      }
    }
    float alpha[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const float max = fmaxf(m[e], column_max(fmaxf(s_reg[e], s_reg[e + 2]))), base = subtrahend(max);
      alpha[e] = exp2_approx((m[e] - base) * c);
      s_reg[e] = exp2_approx((s_reg[e] - base) * c);
      s_reg[e + 2] = exp2_approx((s_reg[e + 2] - base) * c);
      l[e] = fmaf(l[e], alpha[e], s_reg[e] + s_reg[e + 2]);
      m[e] = max;
    }
    if (team_or<32>(alpha[0] != 1.f || alpha[1] != 1.f)) {
#pragma unroll
      for (int n = 0; n < HD / 16; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) acc_reg[n][e] *= alpha[e & 1];
      }
    }
    if (GENERAL && p.hasDropout) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int j = j0 + g + 4 * (e & 2);
        const Query& q = query[e & 1];
        if (!keeps(p.dropout, draws_of(p.dropout, j >> 3, q.i, q.b * p.H + q.h), j)) s_reg[e] = 0.f;
      }
    }

    // accumulate: acc^T [Dv, 8] += v^T p^T
    OperandB<T> p_reg[BC / ROWS_A_STEP<T>];
    transposed(p_reg, s_reg);
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
      if (piece > 0) load_v(j0, piece);
      if (!full) {
        take_nan_out_of<T>(v_reg, reinterpret_cast<Fragment(&)[V_CHUNKS][ELEMS / 2]>(acc_reg[piece * V_CHUNKS * ELEMS / 2]),
                           [&](int e, int key) { return sees(e, j0 + key); });
      }
#pragma unroll
      for (int i = 0; i < V_CHUNKS; i++) {
#pragma unroll
        for (int n = 0; n < ELEMS / 2; n++) {
          Fragment& acc = acc_reg[(piece * V_CHUNKS + i) * ELEMS / 2 + n];
          if constexpr (sizeof(T) == 2) {
            const u32 v[4] = {v_reg[0][i].word[n], v_reg[1][i].word[n], v_reg[2][i].word[n], v_reg[3][i].word[n]};
            const u32 a[4] = {low_halves(v[0], v[1]), high_halves(v[0], v[1]), low_halves(v[2], v[3]), high_halves(v[2], v[3])};
            multiply(acc, OperandA<T>(a), p_reg[0]);
          } else {
            Fragment fresh = {};
#pragma unroll
            for (int step = 0; step < 2; step++) {
              const Chunk &v = v_reg[2 * step][i], &v1 = v_reg[2 * step + 1][i];
              const u32 a[4] = {v.word[2 * n], v.word[2 * n + 1], v1.word[2 * n], v1.word[2 * n + 1]};
              multiply(fresh, OperandA<T>(a), p_reg[step]);
            }
            add(acc, fresh);
          }
        }
      }
    }
    if (Sizes::BOTH && next < block.end) load_v(next, 0);
  }

  // finish: m, l [WARPS, 8] and acc [WARPS, 8, HD] in shared memory
  float* m_all = reinterpret_cast<float*>(shared_at(0));
  float *l_all = m_all + WARPS * BR, *acc_all = l_all + WARPS * BR;
#pragma unroll
  for (int e = 0; e < 2; e++) {
    const int row = warp_id() * BR + 2 * t + e;
    const float sum = column_sum(l[e]);
    if (!query[e].there) continue;
    if (g == 0) m_all[row] = m[e], l_all[row] = sum;
#pragma unroll
    for (int n = 0; n < HD / 16; n++) {
      float* to = acc_all + row * HD + (n / (ELEMS / 2) * 8 + g) * ELEMS + n % (ELEMS / 2) * 2;
      to[0] = acc_reg[n][e], to[1] = acc_reg[n][2 + e];
    }
  }
  __syncthreads();
  for (int n = threadIdx.x; n < (block.endRow - block.firstRow) * HD; n += THREADS) {
    const int row = n / HD, d = n % HD, i = (block.firstRow + row) % p.Sq;
    if (d >= p.Dv) continue;
    float m = NEGATIVE_INFINITY, l = 0.f, x = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) m = fmaxf(m, m_all[w * BR + row]);
    const float base = subtrahend(m);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const float weight = exp2_approx((m_all[w * BR + row] - base) * c);
      l = fmaf(l_all[w * BR + row], weight, l);
      x = fmaf(acc_all[(w * BR + row) * HD + d], weight, x);
    }
    const int h = block.firstHead + (block.firstRow + row) / p.Sq;
    const i64 at = row_index(p, block.b, h, i);
    // Where l is 0, acc may be anything that was multiplied by 0.
    x = l == 0.f ? 0.f : x * out_factor(p, l);
    if (p.splits > 1) {
      const i64 part = block.split * (i64{p.B} * p.H * p.Sq) + at;
      p.partial_gmem[part * p.Dv + d] = x;
      if (d == 0) p.partialLse_gmem[part] = lse_of(m, unit, l);
    } else {
      from_float(static_cast<T*>(p.out_gmem)[offset_of(p.out, block.b, h, i) + d], finite_or_nan(x));
      if (d == 0 && p.lse_gmem) p.lse_gmem[at] = lse_of(m, unit, l);
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
