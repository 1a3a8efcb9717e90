// Tunables of the Hopper kernels, and which head dims there are. packages/backend-cuda/src/kernels.ts has the same, which a test
// compares.
#pragma once

namespace fa {

/**
 * @tparam HD head dim, D and Dv at most
 * @tparam GROUPS warpgroups of 64 rows each
 * @tparam BC keys of a block
 * @tparam KV_STAGES blocks of k, and of v, that lie in shared memory at a time
 * @tparam TILES_OF_Q tiles of q
 * @tparam TAKE_TURNS whether warpgroups issue their products one after the other
 * @tparam ONE_STREAM whether the first products of a tile are issued with the last of the tile before
 * @tparam BLOCKS_OF_THREADS a multiprocessor: of two, each fills the waits of the other, and none has registers to fill its own
 */
template <int HD, int GROUPS, int BC, int KV_STAGES, int TILES_OF_Q, bool TAKE_TURNS, bool ONE_STREAM = true,
          int BLOCKS_OF_THREADS = 1>
struct HopperTile {
  static constexpr int HEAD_DIM = HD, WARPGROUPS = GROUPS, Q = 64 * GROUPS, KV = BC;
  static constexpr int STAGES = KV_STAGES, Q_STAGES = TILES_OF_Q;
  static constexpr bool TURNS = TAKE_TURNS, STREAM = ONE_STREAM;
  static constexpr int BLOCKS = BLOCKS_OF_THREADS;
  /** Whether a warpgroup's products run beside its softmax. */
  static constexpr bool OVERLAP = BLOCKS == 1;
  static constexpr int THREADS = 128 * (GROUPS + 1);
  static constexpr int PANELS = (HD + 63) / 64;
  static constexpr int Q_BYTES = PANELS * Q * 128, KV_BYTES = PANELS * KV * 128;
  /** Tiles, and 1 KiB for barriers. */
  static constexpr int SHARED_BYTES = Q_STAGES * Q_BYTES + 2 * STAGES * KV_BYTES + 1024;
  /** A thread, of 65,536 that a multiprocessor has; multiples of 8. */
  static constexpr int PRODUCER_REGISTERS = BLOCKS == 2 || GROUPS == 3 ? 32 : 40;
  static constexpr int CONSUMER_REGISTERS = BLOCKS == 2 ? 104 : GROUPS == 3 ? 160 : 232;
  /** The most whose tiles come together: see hopper_start.cuh. */
  static constexpr int HEADS = BLOCKS == 2 ? 128 : 16;
};

/**
 * For the common options, for those with a band and few keys, where what happens at the ends of a tile counts, and for all that
 * the Hopper kernel takes.
 */
template <int HD>
struct HopperTiles;
template <>
struct HopperTiles<64> {
  using Common = HopperTile<64, 3, 128, 2, 2, true>;
  using Short = HopperTile<64, 2, 64, 3, 2, false, false, 2>;
  using General = HopperTile<64, 2, 64, 2, 2, true>;
};
template <>
struct HopperTiles<96> {
  using Common = HopperTile<96, 2, 128, 2, 2, true>;
  using Short = Common;
  using General = HopperTile<96, 2, 64, 2, 2, true>;
};
template <>
struct HopperTiles<128> {
  using Common = HopperTile<128, 2, 128, 2, 2, true>;
  using Short = Common;
  using General = HopperTile<128, 2, 64, 2, 2, true>;
};
template <>
struct HopperTiles<192> {
  using Common = HopperTile<192, 2, 112, 2, 1, true>;
  using Short = Common;
  using General = HopperTile<192, 2, 64, 2, 1, true>;
};
template <>
struct HopperTiles<256> {
  using Common = HopperTile<256, 2, 80, 2, 1, true>;
  using Short = HopperTile<256, 2, 64, 2, 1, true, false>;
  using General = HopperTile<256, 2, 32, 2, 1, true>;
};

}  // namespace fa
