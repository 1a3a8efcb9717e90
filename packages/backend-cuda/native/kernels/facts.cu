#include "facts.h"

#include "backward.cuh"
#include "decode.cuh"
#include "forward.cuh"
#include "hopper_tile.h"

namespace fa {

namespace {

template <class T, int HD>
FaKernel forward_facts(int dtype) {
  using Sizes = ForwardTile<T, HD, false>;
  return {FA_OP_FORWARD, FA_GENERIC, dtype, HD, Sizes::Q, Sizes::KV, Sizes::THREADS, Sizes::SHARED_BYTES};
}
template <class T, int HD>
FaKernel decode_facts(int dtype) {
  using Sizes = DecodeTile<T, HD>;
  return {FA_OP_FORWARD, FA_DECODE, dtype, HD, Sizes::Q, Sizes::KV, Sizes::THREADS, Sizes::SHARED_BYTES};
}
template <int HD>
FaKernel hopper_facts() {
  using Tile = typename HopperTiles<HD>::Common;
  return {FA_OP_FORWARD, FA_HOPPER, FA_FLOAT16, HD, Tile::Q, Tile::KV, Tile::THREADS, Tile::SHARED_BYTES};
}
template <int HD>
FaKernel hopper_short_facts() {
  using Tile = typename HopperTiles<HD>::Short;
  return {FA_OP_FORWARD, FA_HOPPER_SHORT, FA_FLOAT16, HD, Tile::Q, Tile::KV, Tile::THREADS, Tile::SHARED_BYTES};
}
template <int HD>
FaKernel hopper_general_facts() {
  using Tile = typename HopperTiles<HD>::General;
  return {FA_OP_FORWARD, FA_HOPPER_GENERAL, FA_FLOAT16, HD, Tile::Q, Tile::KV, Tile::THREADS, Tile::SHARED_BYTES};
}
template <class T, int HD>
FaKernel backward_facts(int dtype) {
  using Sizes = BackwardTile<T, HD>;
  return {FA_OP_BACKWARD, FA_GENERIC, dtype, HD, Sizes::OWN, Sizes::PASS, Sizes::THREADS, Sizes::SHARED_BYTES};
}

}  // namespace

int kernel_facts(int n, FaKernel* kernel) {
  const FaKernel all[] = {
      decode_facts<float, 64>(FA_FLOAT32),       decode_facts<float, 128>(FA_FLOAT32),
      decode_facts<float, 256>(FA_FLOAT32),      decode_facts<Float16, 64>(FA_FLOAT16),
      decode_facts<Float16, 128>(FA_FLOAT16),    decode_facts<Float16, 256>(FA_FLOAT16),
      hopper_short_facts<64>(),                  hopper_facts<64>(),
      hopper_facts<96>(),                        hopper_facts<128>(),
      hopper_facts<192>(),                       hopper_short_facts<256>(),
      hopper_facts<256>(),                       hopper_general_facts<64>(),
      hopper_general_facts<96>(),                hopper_general_facts<128>(),
      hopper_general_facts<192>(),               hopper_general_facts<256>(),
      forward_facts<float, 64>(FA_FLOAT32),      forward_facts<float, 128>(FA_FLOAT32),
      forward_facts<float, 256>(FA_FLOAT32),     forward_facts<Float16, 64>(FA_FLOAT16),
      forward_facts<Float16, 128>(FA_FLOAT16),   forward_facts<Float16, 256>(FA_FLOAT16),
      backward_facts<float, 64>(FA_FLOAT32),     backward_facts<float, 128>(FA_FLOAT32),
      backward_facts<float, 256>(FA_FLOAT32),    backward_facts<Float16, 64>(FA_FLOAT16),
      backward_facts<Float16, 128>(FA_FLOAT16),  backward_facts<Float16, 256>(FA_FLOAT16),
  };
  if (n < 0 || n >= static_cast<int>(sizeof all / sizeof *all)) return 0;
  *kernel = all[n];
  return 1;
}

}  // namespace fa
