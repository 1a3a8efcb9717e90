// out = softmax(score program(q k^T)) v and lse = ln sum exp, one block of query rows a call (FlashAttention-2, algorithm 1).
//   faForwardPack   once for a (batch, key head): K and V as panels, shared by the query heads of its group; keyBegin and
//                   keyEnd are a range of whole tiles, so that several calls may share the work
//   faForwardRows   one block of at most Br query rows of one head
//   faCalibrate     the product of scores alone, to time register blocks
#include "long.h"
#include "micro.h"
#include "pack.h"
#include "pairs.h"
#include "score.h"
#include "softmax.h"

DEFINE_ROWS(rowsQK, ROWS, SET_SCALED)
DEFINE_ROWS(rowsPV, ROWS, SCALE_ADD)

#define GROUP ROW_UNIT // rows whose softmax runs over the same keys: whole register blocks, and vectors of 4 rows

EXPORT(faForwardPack) void faForwardPack(const ForwardParams *p) {
  Matrix k = {p->k, p->dtype, p->kStride}, v = {p->v, p->dtype, p->vStride};
  u32 tileColumns = roundUp(p->Bc, 8) * p->D;
  for (u32 tile = p->keyBegin / p->Bc, key = tile * p->Bc; key < p->keyEnd; tile++, key += p->Bc) {
    u32 keys = minU(p->Bc, p->Skv - key);
    packTransposed(p->kColumns + tile * tileColumns, k, key, keys, p->D);
    p->vFinite[tile] = (u8)packPanels(p->vPanels + key * roundUp(p->Dv, 8), p->Bc * 8, v, key, keys, p->Dv);
  }
}

// The columns of S that count for some rows: whole panels of the keys that one of them may see.
static Range columnsOfRows(const ForwardParams *p, Tile tile, u32 begin, u32 end) {
  Range keys = keysOfRows(&p->score, tile, begin, end);
  return (Range){keys.begin / NR * NR, roundUp(keys.end, NR)};
}

// Those that the softmax of row r reads: what a row of its group may not see is hidden, whether it was made or not.
static Range columnsOfGroup(const ForwardParams *p, Tile tile, u32 r) {
  u32 begin = r / GROUP * GROUP;
  return columnsOfRows(p, tile, begin, begin + GROUP);
}

// ---- scores: S [rows][Bc8] = q k^T, scaled now or in the exponential
static void productQK(const ForwardParams *p, Tile tile, const f32 *kColumns, u32 ld, u32 D8, const f32 *scale) {
  u32 block = rowsOfBlock(p->blockRows);
  for (u32 r = 0; r < tile.rows; r += block) {
    Range columns = columnsOfRows(p, tile, r, r + block);
    rowsQK(block, p->scores + r * ld + columns.begin, ld, columns.end - columns.begin, p->qRows + r * D8, D8,
           kColumns + columns.begin * p->D, p->D * NR, p->D, scale);
  }
}

// ---- softmax: S becomes P, and m, l, alpha [rows] follow
// m' [rows] of the tile and all before it. Returns whether a finite one is above the limit in size.
static u32 maxTile(const ForwardParams *p, Tile tile, u32 ld, f32 limit) {
  u32 above = 0;
  for (u32 r = 0; r < tile.rows; r += 4) {
    Range columns = columnsOfGroup(p, tile, r);
    above |= maxRows(p, r, tile.rows - r, p->scores + r * ld + columns.begin, ld, columns.end - columns.begin, limit);
  }
  return above;
}

static void softmaxTile(const ForwardParams *p, Tile tile, f32 scale, u32 ld, u32 isLong) {
  for (u32 r = 0; r < tile.rows; r += 4) {
    Range columns = columnsOfGroup(p, tile, r);
    u32 at = r * ld + columns.begin;
    softmaxRows(p, r, p->scores + at, isLong ? p->scoresLow + at : 0, ld, columns.end - columns.begin, scale);
  }
  if (p->score.dropout) dropTile(p, tile, ld);
}

// ---- accumulate: acc [rows][Dv8] = alpha acc + P V, over the keys that some row of a register block sees
static void productPV(const ForwardParams *p, Tile tile, u32 ld, u32 Dv8) {
  const f32 *v = p->vPanels + tile.keyBegin * Dv8;
  u32 block = rowsOfBlock(p->blockRows);
  for (u32 r = 0; r < tile.rows; r += block) {
    Range keys = keysOfRows(&p->score, tile, r, r + block);
    rowsPV(block, p->acc + r * Dv8, Dv8, Dv8, p->scores + r * ld + keys.begin, ld, v + keys.begin * NR, p->Bc * NR,
           keys.end - keys.begin, p->rowScale + r);
  }
}

static void accumulateVisible(const ForwardParams *p, Tile tile, u32 ld, u32 Dv8) {
  f32 sum[MAX_HEAD_DIM];
  for (u32 r = 0; r < tile.rows; r++) {
    const f32 *v = p->vPanels + tile.keyBegin * Dv8;
    sumOverKeys(&p->score, sum, tile.rowBegin + r, tile, p->scores + r * ld, v, NR, p->Bc * NR, Dv8);
    scaleAddSum(p->acc + r * Dv8, p->rowScale[r], sum, Dv8);
  }
}

EXPORT(faForwardRows) void faForwardRows(const ForwardParams *p) {
  u32 D8 = roundUp(p->D, 8), Dv8 = roundUp(p->Dv, 8), Bc8 = roundUp(p->Bc, 8);
  u32 steps = hasSteps(&p->score);
  Scaling scaling = scalingOf(&p->score, p->scale, p->sink);
  u32 mayBeLong = scaling.raw && p->dtype == FLOAT32;
  setupRows(p);
  loadQ(p);
  for (u32 index = p->keyBegin / p->Bc, key = index * p->Bc; key < p->keyEnd; index++, key += p->Bc) {
    u32 keys = minU(p->Bc, p->Skv - key);
    Tile tile = {p->rowBegin, p->rowCount, key, keys};
    Visibility visibility = tileVisibility(&p->score, tile, key >= p->fullBegin && key + keys <= p->fullEnd);
    if (visibility == EMPTY) continue;

    u32 keys8 = roundUp(keys, 8);
    const f32 *kColumns = p->kColumns + index * Bc8 * p->D;
    productQK(p, tile, kColumns, Bc8, D8, &scaling.product);
    if (steps || visibility == PARTIAL || keys != keys8)
      scoreTile(&p->score, tile, visibility, p->scores, 0, Bc8, p->line);

    u32 isLong = maxTile(p, tile, Bc8, LONG_SCORE / scaling.exponential) && mayBeLong;
    if (isLong) {
      longProduct(p->scores, p->scoresLow, Bc8, p->rowCount, keys8, p->qRows, D8, kColumns, p->D);
      hideLong(&p->score, tile, visibility, p->scores, p->scoresLow, Bc8);
      maxTile(p, tile, Bc8, 0);
    }
    softmaxTile(p, tile, scaling.exponential, Bc8, isLong);

    if (visibility == PARTIAL && !p->vFinite[index]) accumulateVisible(p, tile, Bc8, Dv8);
    else productPV(p, tile, Bc8, Dv8);
  }
  finishRows(p, scaling.exponential);
}

// Rows, columns and depth of the product that is timed: a multiple of either block, and 39 KB, which the first-level cache holds.
#define TRIAL_ROWS 24
#define TRIAL_COLUMNS 96
#define TRIAL_DEPTH 64

// work [24][64], [12][64][8] and [24][96]; 2 * 24 * 96 * 64 operations a round.
EXPORT(faCalibrate) void faCalibrate(f32 *work, u32 blockRows, u32 rounds) {
  const f32 *a = work, *b = a + TRIAL_ROWS * TRIAL_DEPTH;
  const f32 one = 1;
  f32 *c = work + (TRIAL_ROWS + TRIAL_COLUMNS) * TRIAL_DEPTH;
  for (u32 round = 0; round < rounds; round++)
    for (u32 r = 0; r < TRIAL_ROWS; r += rowsOfBlock(blockRows))
      rowsQK(blockRows, c + r * TRIAL_COLUMNS, TRIAL_COLUMNS, TRIAL_COLUMNS, a + r * TRIAL_DEPTH, TRIAL_DEPTH, b,
             TRIAL_DEPTH * NR, TRIAL_DEPTH, &one);
}
