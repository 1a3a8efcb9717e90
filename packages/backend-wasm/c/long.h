// Long scores: q.k summed in double and kept as the sum of two f32.
//
// An f32 score of size 100 is off by up to 1e-5 and so is exp of it: the weights of a row would be right to five digits at
// 100 and to three at 10000. Only scores near the row's max matter, so a tile is done again this way if the max of one of
// its rows is large. Only for float32 tensors (half ones round the result far more), and only where scores are raw q.k
// (Scaling in score.h): what a bias or ALiBi adds is f32 anyway, and softcap bounds them.
#pragma once
#include "score.h"

#define LONG_SCORE 32.0f // of scale q.k: below it f32 leaves an error of a few 1e-6

// high + low [rows][ld] = A [rows][n] B, operands as for the micro-kernel; rows is rounded up to 4.
void longProduct(f32 *high, f32 *low, u32 ld, u32 rows, u32 columns, const f32 *a, u32 stride, const f32 *b, u32 n);

// Hidden and padded keys: high -Infinity, low 0.
void hideLong(const ScoreParams *p, Tile tile, Visibility visibility, f32 *high, f32 *low, u32 ld);
