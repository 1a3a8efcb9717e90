// Products pair by pair, for tiles that hide something and whose right operand is not finite.
//
// The micro-kernel adds 0 * x for a hidden pair, which is NaN where x is NaN or infinite. Here hidden pairs are skipped: by
// visibility and not by weight 0, since a weight that underflowed or was dropped still multiplies. Sums run in the order of
// the micro-kernel and meet C as they do there, so that what is hidden changes no bit of what is seen.
#pragma once
#include "score.h"

// sum [n8] over the keys of a tile that row i sees: weights[key] * b[key]. 8 columns of b lie together, a key is keyStride
// from the next, 8 columns panelStride from the next 8.
void sumOverKeys(const ScoreParams *p, f32 *sum, u32 i, Tile tile, const f32 *weights, const f32 *b, u32 keyStride,
                 u32 panelStride, u32 n8);

// sum [n8] over the rows of a tile that see key j: weights[row * ld] * rows[row * n8]
void sumOverRows(const ScoreParams *p, f32 *sum, u32 j, Tile tile, const f32 *weights, u32 ld, const f32 *rows, u32 n8);

// c [n8] = scale c + sum; or, without a scale, c + sum
void scaleAddSum(f32 *c, f32 scale, const f32 *sum, u32 n8);
void addSum(f32 *c, const f32 *sum, u32 n8);
