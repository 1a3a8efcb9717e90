// Starting attention kernels: which instance, how many blocks, how much shared memory.
#pragma once

#include "backward.cuh"
#include "decode.cuh"
#include "forward.cuh"
#include "lib/start.cuh"
#include "table.h"

namespace fa {

template <class T, int HD, bool GENERAL>
cudaError_t start_forward(const Attention& p, cudaStream_t stream) {
  using Sizes = ForwardTile<T, HD, GENERAL>;
  static std::atomic<u64> allowed{0};
  const i64 grid = blocks_of(p);
  if (grid > MAX_GRID) return cudaErrorInvalidValue;
  if (cudaError_t error = allow_shared(forward<T, HD, GENERAL>, Sizes::SHARED_BYTES, allowed)) return error;
  FA_LAUNCH((forward<T, HD, GENERAL>), static_cast<unsigned>(grid), Sizes::THREADS, Sizes::SHARED_BYTES, stream, p);
  if (p.splits > 1) {
    const i64 rows = blocks_of(i64{p.B} * p.H * p.Sq, COMBINE_WARPS);
    FA_LAUNCH(combine<T>, static_cast<unsigned>(rows), 32 * COMBINE_WARPS, COMBINE_WARPS * COMBINE_BYTES_A_WARP, stream, p);
  }
  return cudaGetLastError();
}

/** Rows fill tiles, and are copied 16 bytes at a time. */
inline bool whole(const Attention& p) {
  return p.D == p.Dv && (p.D == 64 || p.D == 128 || p.D == 256) && p.qkAligned && p.vAligned;
}

template <class T>
cudaError_t forward_of(const Attention& p, bool general, cudaStream_t stream) {
  const int dim = most(p.D, p.Dv);
  general = general || !whole(p);
  if (dim <= 64) return general ? start_forward<T, 64, true>(p, stream) : start_forward<T, 64, false>(p, stream);
  if (dim <= 128) return general ? start_forward<T, 128, true>(p, stream) : start_forward<T, 128, false>(p, stream);
  return general ? start_forward<T, 256, true>(p, stream) : start_forward<T, 256, false>(p, stream);
}

template <class T, int HD, bool GENERAL>
cudaError_t start_decode(const Attention& p, cudaStream_t stream) {
  using Sizes = DecodeTile<T, HD>;
  static std::atomic<u64> allowed{0};
  const i64 grid = blocks_of(p);
  if (grid > MAX_GRID || (p.splits > 1 && grid / p.splits > MOST_COUNTERS)) return cudaErrorInvalidValue;
  if (cudaError_t error = allow_shared(decode<T, HD, GENERAL>, Sizes::SHARED_BYTES, allowed)) return error;
  FA_LAUNCH((decode<T, HD, GENERAL>), static_cast<unsigned>(grid), Sizes::THREADS, Sizes::SHARED_BYTES, stream, p);
  return cudaGetLastError();
}

template <class T>
cudaError_t decode_of(const Attention& p, bool general, cudaStream_t stream) {
  const int dim = most(p.D, p.Dv);
  general = general || !whole(p);
  if (dim <= 64) return general ? start_decode<T, 64, true>(p, stream) : start_decode<T, 64, false>(p, stream);
  if (dim <= 128) return general ? start_decode<T, 128, true>(p, stream) : start_decode<T, 128, false>(p, stream);
  return general ? start_decode<T, 256, true>(p, stream) : start_decode<T, 256, false>(p, stream);
}

template <class T, int HD, bool GENERAL>
cudaError_t start_backward(const Attention& p, cudaStream_t stream) {
  using Sizes = BackwardTile<T, HD>;
  static std::atomic<u64> allowedKv{0}, allowedQ{0};
  const i64 keyBlocks = blocks_of(p.Skv, Sizes::OWN) * p.Hkv * p.B * (HD / Sizes::WIDTH);
  const i64 rowBlocks = blocks_of(p.Sq, Sizes::OWN) * p.H * p.B;
  const i64 rows = blocks_of(i64{p.B} * p.H * p.Sq, SUM_WARPS);
  if (most(most(keyBlocks, rowBlocks), rows) > MAX_GRID) return cudaErrorInvalidValue;
  if (cudaError_t error = allow_shared(backward_kv<T, HD, GENERAL>, Sizes::SHARED_BYTES, allowedKv)) return error;
  if (cudaError_t error = allow_shared(backward_q<T, HD, GENERAL>, Sizes::SHARED_BYTES, allowedQ)) return error;
  if (rows > 0) FA_LAUNCH(deltas<T>, static_cast<unsigned>(rows), 32 * SUM_WARPS, 0, stream, p);
  if (keyBlocks > 0) {
    FA_LAUNCH((backward_kv<T, HD, GENERAL>), static_cast<unsigned>(keyBlocks), Sizes::THREADS, Sizes::SHARED_BYTES, stream, p);
  }
  if (rowBlocks > 0) {
    FA_LAUNCH((backward_q<T, HD, GENERAL>), static_cast<unsigned>(rowBlocks), Sizes::THREADS, Sizes::SHARED_BYTES, stream, p);
  }
  return cudaGetLastError();
}

template <class T>
cudaError_t backward_of(const Attention& p, bool general, cudaStream_t stream) {
  const int dim = most(p.D, p.Dv);
  cudaError_t error =
      dim <= 64    ? (general ? start_backward<T, 64, true>(p, stream) : start_backward<T, 64, false>(p, stream))
      : dim <= 128 ? (general ? start_backward<T, 128, true>(p, stream) : start_backward<T, 128, false>(p, stream))
                   : (general ? start_backward<T, 256, true>(p, stream) : start_backward<T, 256, false>(p, stream));
  if (error != cudaSuccess) return error;
  if (p.dsinks_gmem) FA_LAUNCH(sink_gradients<T>, static_cast<unsigned>(p.H), 32, 0, stream, p);
  if (p.dbias_gmem) {
    const i64 elements = (p.bias.batch ? p.B : i64{1}) * (p.bias.head ? p.H : 1) * (p.bias.row ? p.Sq : 1) *
                         (p.bias.column ? p.Skv : 1);
    const i64 blocks = blocks_of(elements, SUM_WARPS);
    if (blocks > MAX_GRID) return cudaErrorInvalidValue;
    if (blocks > 0) FA_LAUNCH(bias_gradients<T>, static_cast<unsigned>(blocks), 32 * SUM_WARPS, 0, stream, p);
  }
  return cudaGetLastError();
}

}  // namespace fa
