// Starting the Hopper kernel: tensor maps, the order of tiles, and which instance.
#pragma once

#include "hopper.cuh"
#include "start.cuh"

namespace fa {

/** cuTensorMapEncodeTiled of the driver, found at run time so that the addon loads where there is none; null: not there. */
inline decltype(&cuTensorMapEncodeTiled) encode_tiled() {
  static const auto found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
    if (error != cudaSuccess) cudaGetLastError();
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(result == cudaDriverEntryPointSuccess ? function : nullptr);
  }();
  return found;
}

/** A map for boxes [boxRows, 64] of a tensor [batches, heads, rows, dim] of 16 bits. */
template <class T>
cudaError_t map_of(CUtensorMap& map, const void* tensor_gmem, const Strides& strides, int dim, int rows, int heads,
                   int batches, int boxRows) {
  const auto size = [](i64 n) { return static_cast<cuuint64_t>(n); };
  const cuuint64_t sizes[] = {size(dim), size(rows), size(heads), size(batches)};
  const cuuint64_t bytes[] = {size(2 * strides.row), size(2 * strides.head), size(2 * strides.batch)};
  const cuuint32_t box[] = {PANEL_ELEMS, static_cast<cuuint32_t>(boxRows), 1, 1}, steps[] = {1, 1, 1, 1};
  const auto type = std::is_same_v<T, Float16> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const CUresult result = encode_tiled()(&map, type, 4, const_cast<void*>(tensor_gmem), sizes, bytes, box, steps,
                                         CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                         CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/**
 * Where rows see different numbers of keys, tiles of several heads come together, those with most keys first: of as many heads as have
 * keys and values of so many bytes, which the L2 cache holds, of enough to be shared out evenly, and of no more than are worked on
 * at a time.
 */
constexpr i64 KEYS_BYTES = i64{32} << 20;
constexpr i64 FEWEST_HEADS = 8;

template <class T, class Tile, bool BAND, bool GENERAL>
cudaError_t start_hopper(const Attention& p, int processors, cudaStream_t stream) {
  static std::atomic<u64> allowed{0};
  const auto kernel = forward_hopper<T, Tile, BAND, GENERAL>;
  static_assert(sizeof(HopperShared<Tile>) <= Tile::SHARED_BYTES);
  if (!encode_tiled()) return cudaErrorNotSupported;
  if (cudaError_t error = allow_shared(kernel, Tile::SHARED_BYTES, allowed)) return error;

  const i64 rowBlocks = blocks_of(p.Sq, Tile::Q), tiles = rowBlocks * p.H * p.B;
  if (tiles > MAX_GRID) return cudaErrorInvalidValue;
  const i64 keysBytes = i64{p.Skv} * (p.D + p.Dv) * 2 * p.Hkv;
  const i64 together = least(most(KEYS_BYTES * p.H / keysBytes, FEWEST_HEADS), i64{Tile::HEADS});
  const i64 heads = BAND ? least(together, i64{p.B} * p.H) : 1;
  const Schedule schedule = {static_cast<int>(rowBlocks), static_cast<int>(tiles), static_cast<int>(heads), p.counters_gmem};

  CUtensorMap q, k, v;
  cudaError_t error = map_of<T>(q, p.q_gmem, p.q, p.D, p.Sq, p.H, p.B, Tile::Q);
  if (error == cudaSuccess) error = map_of<T>(k, p.k_gmem, p.k, p.D, p.Skv, p.Hkv, p.B, Tile::KV);
  if (error == cudaSuccess) error = map_of<T>(v, p.v_gmem, p.v, p.Dv, p.Skv, p.Hkv, p.B, Tile::KV);
  if (error != cudaSuccess) return error;
  const unsigned grid = static_cast<unsigned>(least<i64>(tiles, i64{Tile::BLOCKS} * processors));
  FA_LAUNCH(kernel, grid, Tile::THREADS, Tile::SHARED_BYTES, stream, q, k, v, p, schedule);
  return cudaGetLastError();
}

template <class T, int HD>
cudaError_t start_hopper_common(const Attention& p, bool shortKeys, int processors, cudaStream_t stream) {
  using Tiles = HopperTiles<HD>;
  const bool band = p.lo + (p.Sq - 1) > 0 || p.hi < p.Skv - 1;
  const auto start = shortKeys ? start_hopper<T, typename Tiles::Short, true, false>
                     : band    ? start_hopper<T, typename Tiles::Common, true, false>
                               : start_hopper<T, typename Tiles::Common, false, false>;
  return start(p, processors, stream);
}

template <class T, int HD>
cudaError_t start_hopper_general(const Attention& p, int processors, cudaStream_t stream) {
  return start_hopper<T, typename HopperTiles<HD>::General, true, true>(p, processors, stream);
}

/** `use` with the least head dim that holds D and Dv, as std::integral_constant. */
template <class Use>
cudaError_t with_head_dim(const Attention& p, const Use& use) {
  const int dim = most(p.D, p.Dv);
  if (dim <= 64) return use(std::integral_constant<int, 64>{});
  if (dim <= 96) return use(std::integral_constant<int, 96>{});
  if (dim <= 128) return use(std::integral_constant<int, 128>{});
  if (dim <= 192) return use(std::integral_constant<int, 192>{});
  return use(std::integral_constant<int, 256>{});
}

}  // namespace fa
