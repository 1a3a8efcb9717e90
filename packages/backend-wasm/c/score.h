// The score program on one tile: rows i = rowBegin.., keys j = keyBegin.. (keys <= Bc), scores [rows][ld].
//   scale -> softcap -> bias -> ALiBi -> visibility; dropout later, on the probabilities
#pragma once
#include "params.h"
#include "simd.h"

typedef enum { EMPTY, PARTIAL, FULL } Visibility;

typedef struct {
  u32 rowBegin, rows, keyBegin, keys;
} Tile;

// Rows or keys of a tile, from its first one.
typedef struct {
  u32 begin, end;
} Range;

// Scores of size 100 lose their sixth digit when they are rounded to f32. Where nothing happens between the product and
// the exponential, scores therefore stay the raw q.k, and the scale is applied to differences of them, which are small.
typedef struct {
  f32 product;     // what q.k is multiplied with as it is stored
  f32 exponential; // what differences of stored scores are multiplied with: one of the two is 1
  u32 raw;         // stored scores are q.k
} Scaling;

INLINE u32 hasSteps(const ScoreParams *p) { return p->softcap || p->bias || p->slope; }
INLINE Scaling scalingOf(const ScoreParams *p, f32 scale, f32 sink) {
  u32 raw = !hasSteps(p) && sink == -INFINITY_F && scale > 0;
  return raw ? (Scaling){1, scale, 1} : (Scaling){scale, 1, 0};
}

// What the tile shows. insideBand: the caller knows from the key range that the band hides nothing.
Visibility tileVisibility(const ScoreParams *p, Tile tile, u32 insideBand);

// The keys that some row of [begin, end) sees, as far as the band decides: nothing else need be computed.
Range keysOfRows(const ScoreParams *p, Tile tile, u32 begin, u32 end);

u32 visible(const ScoreParams *p, u32 i, u32 j);

// Raw scores become final ones, hidden and padded keys -Infinity. capGrads [rows][ld] receives the derivative of softcap
// when both are there. line: scratch for one row of keys.
void scoreTile(const ScoreParams *p, Tile tile, Visibility visibility, f32 *scores, f32 *capGrads, u32 ld, f32 *line);

// Sets the entries of one row that are hidden to a value.
void hideRow(const ScoreParams *p, f32 *row, u32 i, u32 keyBegin, u32 keys, f32 value);

// Dropout factors of row i for the tile's keys: 0 or 1 / (1 - p). Returns where in line the first one is.
const f32 *dropoutFactors(const ScoreParams *p, f32 *line, u32 i, u32 keyBegin, u32 keys);
