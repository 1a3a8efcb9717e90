// Philox4x32 with 7 rounds (Salmon et al., SC 2011): the draws of dropout, as packages/core/src/philox.ts defines them.
#pragma once

#include "platform.cuh"

namespace fa {

struct Dropout {
  /** A pair is kept iff its 16-bit draw is at least this. */
  u32 threshold;
  /** 1 / (1 - p), applied once at the end; 0 when p = 1. */
  float scale;
  u32 seedLow, seedHigh, offset;
};

struct Draws {
  u32 word[4];
};

FA_DEVICE Draws philox(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
#pragma unroll
  for (int round = 0; round < 7; round++) {
    const u32 high0 = __umulhi(0xd2511f53u, c0), low0 = 0xd2511f53u * c0;
    const u32 high1 = __umulhi(0xcd9e8d57u, c2), low1 = 0xcd9e8d57u * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return {{c0, c1, c2, c3}};
}

/** The draws of keys 8 `group` to 8 `group` + 7 of one query row. */
FA_DEVICE Draws draws_of(const Dropout& dropout, int group, int row, int batchHead) {
  return philox(group, row, batchHead, dropout.offset, dropout.seedLow, dropout.seedHigh);
}

FA_DEVICE bool keeps(const Dropout& dropout, const Draws& draws, int key) {
  const int draw = key & 7;
  // By selection, not by index: an indexed array would live in memory.
  const u32 low = draw & 2 ? draws.word[1] : draws.word[0], high = draw & 2 ? draws.word[3] : draws.word[2];
  const u32 word = draw & 4 ? high : low;
  return (draw & 1 ? word >> 16 : word & 0xffffu) >= dropout.threshold;
}

}  // namespace fa
