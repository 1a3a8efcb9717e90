// What forward kernels do with the 16 rows of a warp: which keys they see, the softmax as tiles of scores go by, and its end.
//
// e^(s - m) is 2^((s - m) c): the max is subtracted before anything is multiplied, since a score of 1e4 times log2(e) loses the digits
// that tell two keys apart. One fused multiply-add, s c - (m c, rounded), would be exact but for what is rounded off m c, which cancels
// in out; but that is 2^64 off at logits of 2^30, and no number at 2^100.
//
// Roundings are spelled out (`product`, `fmaf`), so that all variants of a kernel give the same bits.
#pragma once

#include "score.cuh"

namespace fa {

/** The rows and keys of a block of threads. A row is a query of one of `group` heads that share a key head. */
struct Block {
  int b, firstHead, keyHead, split;
  /** The same for all splits of the same rows: below the number of blocks / splits. */
  int counter;
  /** Of group x Sq rows. */
  int firstRow, endRow;
  /** Keys that some row of the block sees, in this split; those in [fullBegin, fullEnd) are in the bands of all rows. */
  int begin, end, fullBegin, fullEnd;
};

/** @param stride keys that a split is cut by */
FA_DEVICE Block block_at(const Attention& p, i64 index, int stride) {
  Block block;
  const int rows = p.group * p.Sq, rowBlocks = (rows + p.tileQ - 1) / p.tileQ, headBlocks = p.H / p.group;
  // The last rows first, since with causal they have the most keys.
  const int rowBlock = rowBlocks - 1 - static_cast<int>(index % rowBlocks);
  index /= rowBlocks;
  block.split = static_cast<int>(index % p.splits);
  index /= p.splits;
  block.counter = static_cast<int>(rowBlock + index * rowBlocks);
  block.firstHead = static_cast<int>(index % headBlocks) * p.group;
  block.b = static_cast<int>(index / headBlocks);
  block.keyHead = block.firstHead / (p.H / p.Hkv);
  block.firstRow = rowBlock * p.tileQ;
  block.endRow = least(block.firstRow + p.tileQ, rows);

  // Rows of several heads have any i.
  const bool oneHead = block.firstRow / p.Sq == (block.endRow - 1) / p.Sq;
  const int firstI = oneHead ? block.firstRow % p.Sq : 0, lastI = oneHead ? (block.endRow - 1) % p.Sq : p.Sq - 1;
  block.begin = most(firstI + p.lo, 0) / stride * stride;
  block.end = least(lastI + p.hi + 1, p.Skv);
  block.fullBegin = lastI + p.lo;
  block.fullEnd = least(firstI + p.hi + 1, p.Skv);
  if (p.splits > 1) {
    const int tiles = (p.Skv + stride - 1) / stride, each = (tiles + p.splits - 1) / p.splits * stride;
    block.begin = most(block.begin, block.split * each);
    block.end = static_cast<int>(least<i64>(block.end, (block.split + i64{1}) * each));
  }
  return block;
}

/** Blocks of the whole problem. */
FA_ANYWHERE i64 blocks_of(const Attention& p) {
  return (i64{p.group} * p.Sq + p.tileQ - 1) / p.tileQ * (p.H / p.group) * p.B * p.splits;
}

/** Whether s and m are q.k themselves, or what the score program makes of them. */
template <bool GENERAL>
FA_DEVICE bool raw_scores(const Attention& p) {
  return !GENERAL || p.raw;
}

/** Row `row` of the group x Sq. */
template <bool GENERAL>
FA_DEVICE Query query_of(const Attention& p, const Block& block, int row) {
  return query_at<GENERAL>(p, block.b, block.firstHead + row / p.Sq, row % p.Sq, row < block.endRow);
}

/** The two rows of a thread: g and g + 8 of its warp's 16 (g = lane / 4). */
struct Rows {
  Query query[2];
  /** The largest score so far; -Infinity before the first. */
  float m[2];
  /** This thread's share of the sum of 2^((s - m) c). */
  float l[2];
  /** What scores are in (`raw_scores`), and that times log2(e). */
  float unit, c;
};

template <bool GENERAL>
FA_DEVICE Rows rows_of(const Attention& p, const Block& block, int firstRow) {
  Rows rows;
  rows.unit = raw_scores<GENERAL>(p) ? p.scale : 1.f;
  rows.c = product(rows.unit, LOG2E);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    Query& q = rows.query[half] = query_of<GENERAL>(p, block, firstRow + (lane_id() >> 2) + 8 * half);
    rows.m[half] = GENERAL && q.there && block.split == 0 ? sink_of(p, q.h) : NEGATIVE_INFINITY;
    // One of the four lanes of a row has the sink's share; they are summed in the end.
    rows.l[half] = rows.m[half] == NEGATIVE_INFINITY || (lane_id() & 3) != 0 ? 0.f : 1.f;
  }
  return rows;
}

/** q.k of keys `j0` and following become scores; -Infinity where hidden. `sees(half, column)` is asked unless all see all. */
template <bool GENERAL, int COLUMNS, class Sees>
FA_DEVICE void score_tile(Fragment (&s_reg)[COLUMNS / 8], const Attention& p, const Rows& rows, int j0, bool full,
                          const Sees& sees) {
  const bool raw = raw_scores<GENERAL>(p);
  if (full && raw) return;
#pragma unroll
  for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int column = 8 * n + 2 * (lane_id() & 3) + (e & 1);
      const Query& q = rows.query[e >> 1];
      if (!(full ? q.there : sees(e >> 1, column))) s_reg[n][e] = NEGATIVE_INFINITY;
      else if (!raw) s_reg[n][e] = score_of<GENERAL>(p, q, j0 + column, s_reg[n][e]);
    }
  }
}

/** Scores become p = 2^((s - m) c), in place; what came before is rescaled to the new max. */
template <int COLUMNS, int WIDTH>
FA_DEVICE void softmax_tile(Fragment (&s_reg)[COLUMNS / 8], Fragment (&acc_reg)[WIDTH / 8], Rows& rows) {
  float alpha[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float max = NEGATIVE_INFINITY;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) max = fmaxf(max, fmaxf(s_reg[n][2 * half], s_reg[n][2 * half + 1]));
    max = fmaxf(rows.m[half], quad_max(max));
    const float base = subtrahend(max);
    alpha[half] = exp2_approx((rows.m[half] - base) * rows.c);
    float sum = 0.f;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; e++) {
        s_reg[n][e] = exp2_approx((s_reg[n][e] - base) * rows.c);
        sum += s_reg[n][e];
      }
    }
    rows.l[half] = fmaf(rows.l[half], alpha[half], sum);
    rows.m[half] = max;
  }
  // Soon the max grows but seldom.
  if (!team_or<32>(alpha[0] != 1.f || alpha[1] != 1.f)) return;
#pragma unroll
  for (int n = 0; n < WIDTH / 8; n++) {
#pragma unroll
    for (int e = 0; e < 4; e++) acc_reg[n][e] *= alpha[e >> 1];
  }
}

/** Takes dropped pairs out of p. */
template <int COLUMNS>
FA_DEVICE void drop_tile(Fragment (&p_reg)[COLUMNS / 8], const Attention& p, const Rows& rows, int j0) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const Query& q = rows.query[half];
    int group = -1;
    Draws draws = {};
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int j = j0 + 8 * n + 2 * (lane_id() & 3) + e;
        if (j >> 3 != group) draws = draws_of(p.dropout, group = j >> 3, q.i, q.b * p.H + q.h);
        if (!keeps(p.dropout, draws, j)) p_reg[n][2 * half + e] = 0.f;
      }
    }
  }
}

/** lse of a row from its m in `unit`; -Infinity where nothing was seen. */
FA_DEVICE float lse_of(float m, float unit, float l) { return l == 0.f ? NEGATIVE_INFINITY : fmaf(m, unit, logf(l)); }

/** What sums of p v are multiplied with; a row that saw nothing has l = 0. */
FA_DEVICE float out_factor(const Attention& p, float l) {
  return l == 0.f ? 0.f : (p.hasDropout ? p.dropout.scale : 1.f) / l;
}

/** Rows of lse: [B, H, Sq]. */
FA_DEVICE i64 row_index(const Attention& p, int b, int h, int i) { return (b * i64{p.H} + h) * p.Sq + i; }

}  // namespace fa
