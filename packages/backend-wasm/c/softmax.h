// The rows of a block and their running softmax, whichever way the products are made. Scores are S [rows][ld].
#pragma once
#include "score.h"

// ---- setup: m, l [rows], acc [rows][Dv8]; rows up to a register block are 0
void setupRows(const ForwardParams *p);

// ---- load: qRows [rows][D8] = q, the same
void loadQ(const ForwardParams *p);

// ---- softmax: S becomes P = exp(scale (s - m')), and m, l, alpha [rows] follow. Four rows from r on, s [4][ld] theirs.
// m' = max(m, max of n8 columns). Returns whether a finite one, of the first `rows`, is above the limit in size.
u32 maxRows(const ForwardParams *p, u32 r, u32 rows, const f32 *s, u32 ld, u32 n8, f32 limit);

// low: the second part of long scores, or null.
void softmaxRows(const ForwardParams *p, u32 r, f32 *s, const f32 *low, u32 ld, u32 n8, f32 scale);

// P becomes dropout(P), on all rows of a tile.
void dropTile(const ForwardParams *p, Tile tile, u32 ld);

// ---- finish: out [rows][Dv] = acc / l, lse [rows] = scale m + ln l; a result that is not finite is NaN
void finishRows(const ForwardParams *p, f32 scale);
