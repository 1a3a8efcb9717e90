#include "pairs.h"

// Columns n8 of a row that lies in panels (or side by side, panelStride 8).
HOT static void addScaled(f32 *sum, f32 weight, const f32 *from, u32 panelStride, u32 n8) {
  for (u32 d = 0; d < n8; d += 8, from += panelStride) {
    store(sum + d, madd(splat(weight), load(from), load(sum + d)));
    store(sum + d + 4, madd(splat(weight), load(from + 4), load(sum + d + 4)));
  }
}

void sumOverKeys(const ScoreParams *p, f32 *sum, u32 i, Tile tile, const f32 *weights, const f32 *b, u32 keyStride,
                 u32 panelStride, u32 n8) {
  fillZero(sum, n8 * 4);
  for (u32 c = 0; c < tile.keys; c++)
    if (visible(p, i, tile.keyBegin + c)) addScaled(sum, weights[c], b + c * keyStride, panelStride, n8);
}

void sumOverRows(const ScoreParams *p, f32 *sum, u32 j, Tile tile, const f32 *weights, u32 ld, const f32 *rows, u32 n8) {
  fillZero(sum, n8 * 4);
  for (u32 r = 0; r < tile.rows; r++)
    if (visible(p, tile.rowBegin + r, j)) addScaled(sum, weights[r * ld], rows + r * n8, 8, n8);
}

void scaleAddSum(f32 *c, f32 scale, const f32 *sum, u32 n8) {
  for (u32 d = 0; d < n8; d += 4) store(c + d, madd(splat(scale), load(c + d), load(sum + d)));
}

void addSum(f32 *c, const f32 *sum, u32 n8) {
  for (u32 d = 0; d < n8; d += 4) store(c + d, add(load(sum + d), load(c + d)));
}
