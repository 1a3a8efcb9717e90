// One attention problem as kernels see it, and its score program: scale, softcap, bias, ALiBi, visibility, sinks, dropout.
//
// Kernels are compiled twice: for the common options (a scale above 0, a band), and in general.
//
// Where nothing is added to scores (`raw`), the forward pass leaves the scale to the multiplication by log2(e); see rows.cuh.
#pragma once

#include "philox.cuh"
#include "tile.cuh"

namespace fa {

/** In elements. */
struct Strides {
  i64 batch, head, row;
};
/** In elements; 0 along a dimension that repeats. */
struct Broadcast {
  i64 batch, head, row, column;
};

struct Attention {
  // [B, H, Sq, D], [B, Hkv, Skv, D], [B, Hkv, Skv, Dv], [B, H, Sq, Dv] in the problem's layout; lse [B, H, Sq] or null
  const void *q_gmem, *k_gmem, *v_gmem;
  void* out_gmem;
  float* lse_gmem;
  Strides q, k, v, out;
  int B, H, Hkv, Sq, Skv, D, Dv;
  /** Whether rows of q and k, and of v and out, begin and end at multiples of 16 bytes. */
  bool qkAligned, vAligned;

  /** Rows and keys of a tile that count: the kernel's own, or fewer. */
  int tileQ, tileKV;
  /** Query heads that share a key head and go into one block of rows: 1 or H / Hkv. */
  int group;
  /** Pieces that the keys are split into; more than 1: results are partial, see combine.cu. */
  int splits;
  /** [splits, B, H, Sq, Dv] and [splits, B, H, Sq] */
  float *partial_gmem, *partialLse_gmem;
  /** Zeros, as many as there are blocks without the splits; zeros again when the kernel ends. */
  unsigned* counters_gmem;

  // ---- the score program
  float scale;
  /** The scale is above 0, and there is no step but it that changes a score. */
  bool raw;
  /** Softcap, or 0, and scale / cap. */
  float cap, scaleByCap;
  /** Key j is in the band of row i iff i + lo <= j <= i + hi. */
  int lo, hi;
  const void *bias_gmem, *alibi_gmem, *sinks_gmem;
  const u8* mask_gmem;
  int biasDType, alibiDType, sinksDType;
  bool alibiPerBatch;
  Broadcast bias, mask;
  bool hasDropout;
  Dropout dropout;

  // ---- backward: as out, as q, k, v; delta [B, H, Sq] = rowsum(dout out)
  const void* dout_gmem;
  void *dq_gmem, *dk_gmem, *dv_gmem;
  void *dbias_gmem, *dsinks_gmem;
  float* delta_gmem;
};

FA_DEVICE i64 offset_of(const Strides& strides, int b, int h, int row) {
  return b * strides.batch + h * strides.head + row * strides.row;
}

/** What the score program needs of a query row. */
struct Query {
  /** Batch, query head and row; not `there`: past the end. */
  int b, h, i;
  bool there;
  /** Keys [begin, end) are in its band. */
  int begin, end;
  /** ALiBi's. */
  float slope;
  const u8* mask_gmem;
  i64 bias;
};

template <bool GENERAL>
FA_DEVICE Query query_at(const Attention& p, int b, int h, int i, bool there) {
  Query q = {b, h, i, there, 0, 0, 0.f, nullptr, 0};
  if (!there) return q;
  q.begin = most(i + p.lo, 0);
  q.end = least(i + p.hi + 1, p.Skv);
  if constexpr (GENERAL) {
    if (p.alibi_gmem) q.slope = load_as(p.alibiDType, p.alibi_gmem, p.alibiPerBatch ? b * i64{p.H} + h : h);
    if (p.mask_gmem) q.mask_gmem = p.mask_gmem + b * p.mask.batch + h * p.mask.head + i * p.mask.row;
    if (p.bias_gmem) q.bias = b * p.bias.batch + h * p.bias.head + i * p.bias.row;
  }
  return q;
}

template <bool GENERAL>
FA_DEVICE bool visible(const Attention& p, const Query& q, int j) {
  if (j < q.begin || j >= q.end) return false;
  if constexpr (GENERAL) return !q.mask_gmem || q.mask_gmem[j * p.mask.column] != 0;
  return true;
}

/** The score of a visible pair from its q.k. BIAS: there may be one. */
template <bool GENERAL, bool BIAS = GENERAL>
FA_DEVICE float score_of(const Attention& p, const Query& q, int j, float qk) {
  float s = product(qk, p.scale);
  if constexpr (GENERAL) {
    if (p.cap > 0.f) s = p.cap * tanhf(qk * p.scaleByCap);
    if constexpr (BIAS) {
      if (p.bias_gmem) s += load_as(p.biasDType, p.bias_gmem, q.bias + j * p.bias.column);
    }
    if (p.alibi_gmem) s -= q.slope * fabsf(static_cast<float>(q.i + (p.Skv - p.Sq) - j));
  }
  return s;
}

/** d s / d (q.k) */
template <bool GENERAL>
FA_DEVICE float score_slope(const Attention& p, float qk) {
  if constexpr (GENERAL) {
    if (p.cap > 0.f) {
      const float t = tanhf(qk * p.scaleByCap);
      return p.scale * (1.f - t * t);
    }
  }
  return p.scale;
}

/** The sink of a head; -Infinity adds nothing. */
FA_DEVICE float sink_of(const Attention& p, int h) {
  return p.sinks_gmem ? load_as(p.sinksDType, p.sinks_gmem, h) : NEGATIVE_INFINITY;
}

/** What to subtract before a power: the max, or 0 where nothing was seen. */
FA_DEVICE float subtrahend(float m) { return m == NEGATIVE_INFINITY ? 0.f : m; }

/** Results are numbers or NaN. */
FA_DEVICE float finite_or_nan(float x) { return is_finite(x) ? x : quiet_nan(); }

}  // namespace fa
