// out = softmax(score program(q k^T)) v and lse = ln sum exp, one block of query rows a call (FlashAttention-2, algorithm 1).
//   faForwardPack   once for a (batch, key head): K and V as panels, shared by the query heads of its group
//   faForwardRows   one block of at most Br query rows of one head
#include "long.h"
#include "micro.h"
#include "pack.h"
#include "pairs.h"
#include "score.h"

DEFINE_ROWS(rowsQK, ROWS, SET_SCALED)
DEFINE_ROWS(rowsPV, ROWS, SCALE_ADD)

#define GROUP 12 // rows whose softmax runs over the same keys: a multiple of MR and of the 4 rows of a vector

EXPORT(faForwardPack) void faForwardPack(const ForwardParams *p) {
  Matrix k = {p->k, p->dtype, p->kStride}, v = {p->v, p->dtype, p->vStride};
  u32 tileColumns = roundUp(p->Bc, 8) * p->D;
  for (u32 tile = 0, key = 0; key < p->Skv; tile++, key += p->Bc) {
    u32 keys = minU(p->Bc, p->Skv - key);
    packTransposed(p->kColumns + tile * tileColumns, k, key, keys, p->D);
    p->vFinite[tile] = (u8)packPanels(p->vPanels + key * roundUp(p->Dv, 8), p->Bc * 8, v, key, keys, p->Dv);
  }
}

// ---- setup: m, l [rows], acc [rows][Dv8]
static void setup(const ForwardParams *p) {
  u32 hasSink = p->sink != -INFINITY_F;
  for (u32 r = 0; r < p->rowCount; r++) p->rowMax[r] = p->sink, p->rowSum[r] = hasSink ? 1 : 0;
  u32 padded = roundUp(p->rowCount, MR);
  fillZero(p->rowScale, padded * 4);
  fillZero(p->acc, padded * roundUp(p->Dv, 8) * 4);
}

// ---- load: qRows [rows][D8] = q
static void loadQ(const ForwardParams *p) {
  Matrix q = {p->q, p->dtype, p->qStride};
  u32 ld = roundUp(p->D, 8);
  packRows(p->qRows, ld, q, p->rowBegin, p->rowCount, p->D);
  fillZero(p->qRows + p->rowCount * ld, (roundUp(p->rowCount, MR) - p->rowCount) * ld * 4);
}

// The columns of S that are made and read for row r: whole panels of the keys that a row of its group may see.
static Range columnsOfGroup(const ForwardParams *p, Tile tile, u32 r) {
  u32 begin = r / GROUP * GROUP;
  Range keys = keysOfRows(&p->score, tile, begin, begin + GROUP);
  return (Range){keys.begin / NR * NR, roundUp(keys.end, NR)};
}

// ---- scores: S [rows][Bc8] = q k^T, scaled now or in the exponential
static void productQK(const ForwardParams *p, Tile tile, const f32 *kColumns, u32 ld, u32 D8, const f32 *scale) {
  for (u32 r = 0; r < tile.rows; r += MR) {
    Range columns = columnsOfGroup(p, tile, r);
    rowsQK(p->scores + r * ld + columns.begin, ld, columns.end - columns.begin, p->qRows + r * D8, D8,
           kColumns + columns.begin * p->D, p->D * NR, p->D, scale);
  }
}

// ---- softmax: S becomes P = exp(scale (s - m')), and m, l, alpha [rows] follow
// top [4] = m' = max(m, max of a row of S), four rows.
HOT static void maxOfRows(f32 *top, const f32 *m, const f32 *s, u32 ld, u32 n8) {
  vec a = splat(-INFINITY_F), b = a, c = a, d = a;
  for (u32 n = 0; n < n8; n += 4) {
    a = maxSkipNaN(a, load(s + n));
    b = maxSkipNaN(b, load(s + n + ld));
    c = maxSkipNaN(c, load(s + n + 2 * ld));
    d = maxSkipNaN(d, load(s + n + 3 * ld));
  }
  transpose4(&a, &b, &c, &d);
  store(top, maxSkipNaN(load(m), maxSkipNaN(maxSkipNaN(a, b), maxSkipNaN(c, d))));
}

// m' [rows] of the tile and all before it. Returns whether a finite one is above the limit in size.
static u32 maxTile(const ForwardParams *p, Tile tile, u32 ld, f32 limit) {
  vec above = splat(0), row = wasm_i32x4_make(0, 1, 2, 3);
  for (u32 r = 0; r < tile.rows; r += 4) {
    Range columns = columnsOfGroup(p, tile, r);
    maxOfRows(p->rowTop + r, p->rowMax + r, p->scores + r * ld + columns.begin, ld, columns.end - columns.begin);
    vec size = wasm_f32x4_abs(load(p->rowTop + r)), inside = wasm_i32x4_lt(row, wasm_i32x4_splat((i32)(tile.rows - r)));
    vec large = wasm_v128_and(wasm_f32x4_gt(size, splat(limit)), wasm_f32x4_lt(size, splat(INFINITY_F)));
    above = wasm_v128_or(above, wasm_v128_and(large, inside));
  }
  return wasm_v128_any_true(above);
}

// s [n8] becomes P; returns four parts of its sum.
INLINE vec exponentialRow(Exp2 e, f32 *s, u32 n8, f32 shift, vec log2e) {
  vec subtract = splat(shift), sum0 = splat(0), sum1 = sum0;
  for (u32 c = 0; c < n8; c += 8) {
    vec p0 = exp2v(e, mul(sub(load(s + c), subtract), log2e));
    vec p1 = exp2v(e, mul(sub(load(s + c + 4), subtract), log2e));
    store(s + c, p0);
    store(s + c + 4, p1);
    sum0 = add(sum0, p0);
    sum1 = add(sum1, p1);
  }
  return add(sum0, sum1);
}

INLINE vec exponentialLongRow(Exp2 e, f32 *s, const f32 *low, u32 n8, f32 shift, vec log2e) {
  vec subtract = splat(shift), sum = splat(0);
  for (u32 c = 0; c < n8; c += 4) {
    vec p = exp2v(e, mul(add(sub(load(s + c), subtract), load(low + c)), log2e));
    store(s + c, p);
    sum = add(sum, p);
  }
  return sum;
}

// Four rows: m, l, alpha, and P from S. low: the second part of long scores, or null.
// While a row has seen no key, m is -Infinity and 0 is subtracted in its place: exp(-Infinity - 0) = 0, never NaN.
HOT static void softmaxRows(const ForwardParams *p, u32 r, f32 *s, const f32 *low, u32 ld, u32 n8, f32 scale) {
  Exp2 e = exp2Setup();
  vec log2e = splat(LOG2E * scale), m = load(p->rowTop + r), sums[4];
  vec shift = select(wasm_f32x4_eq(m, splat(-INFINITY_F)), splat(0), m);
  vec alpha = exp2v(e, mul(sub(load(p->rowMax + r), shift), log2e));
  f32 shifts[4];
  store(shifts, shift);
  for (u32 n = 0; n < 4; n++, s += ld) {
    if (low) sums[n] = exponentialLongRow(e, s, low + n * ld, n8, shifts[n], log2e);
    else sums[n] = exponentialRow(e, s, n8, shifts[n], log2e);
  }
  transpose4(&sums[0], &sums[1], &sums[2], &sums[3]);
  vec sum = add(add(sums[0], sums[2]), add(sums[1], sums[3]));
  store(p->rowSum + r, add(mul(load(p->rowSum + r), alpha), sum));
  store(p->rowScale + r, alpha);
  store(p->rowMax + r, m);
}

HOT static void multiplyRow(f32 *row, const f32 *factors, u32 n) {
  u32 c = 0;
  for (; c + 4 <= n; c += 4) store(row + c, mul(load(row + c), load(factors + c)));
  for (; c < n; c++) row[c] *= factors[c];
}

static void softmaxTile(const ForwardParams *p, Tile tile, f32 scale, u32 ld, u32 isLong) {
  for (u32 r = 0; r < tile.rows; r += 4) {
    Range columns = columnsOfGroup(p, tile, r);
    u32 at = r * ld + columns.begin;
    softmaxRows(p, r, p->scores + at, isLong ? p->scoresLow + at : 0, ld, columns.end - columns.begin, scale);
  }
  if (!p->score.dropout) return;
  for (u32 r = 0; r < tile.rows; r++)
    multiplyRow(p->scores + r * ld, dropoutFactors(&p->score, p->line, tile.rowBegin + r, tile.keyBegin, tile.keys), tile.keys);
}

// ---- accumulate: acc [rows][Dv8] = alpha acc + P V, over the keys that some row of a register block sees
static void productPV(const ForwardParams *p, Tile tile, u32 ld, u32 Dv8) {
  const f32 *v = p->vPanels + tile.keyBegin * Dv8;
  for (u32 r = 0; r < tile.rows; r += MR) {
    Range keys = keysOfRows(&p->score, tile, r, r + MR);
    rowsPV(p->acc + r * Dv8, Dv8, Dv8, p->scores + r * ld + keys.begin, ld, v + keys.begin * NR, p->Bc * NR,
           keys.end - keys.begin, p->rowScale + r);
  }
}

static void accumulateVisible(const ForwardParams *p, Tile tile, u32 ld, u32 Dv8) {
  f32 sum[MAX_HEAD_DIM];
  for (u32 r = 0; r < tile.rows; r++) {
    const f32 *v = p->vPanels + tile.keyBegin * Dv8;
    sumOverKeys(&p->score, sum, tile.rowBegin + r, tile, p->scores + r * ld, v, p->Bc * 8, Dv8);
    scaleAddSum(p->acc + r * Dv8, p->rowScale[r], sum, Dv8);
  }
}

// ---- finish: out [rows][Dv] = acc / l, lse [rows] = scale m + ln l; a result that is not finite is NaN
HOT static void divideRow(f32 *acc, u32 n8, f32 l) {
  vec divisor = splat(l);
  for (u32 d = 0; d < n8; d += 4) {
    vec x = wasm_f32x4_div(load(acc + d), divisor);
    store(acc + d, add(x, sub(x, x)));
  }
}

static void finish(const ForwardParams *p, f32 scale, u32 Dv8) {
  for (u32 r = 0; r < p->rowCount; r++) {
    f32 *acc = p->acc + r * Dv8, l = p->rowSum[r];
    u32 i = p->rowBegin + r;
    if (l == 0) fillZero(acc, Dv8 * 4); // an empty row, whatever its values hold
    else divideRow(acc, Dv8, l);
    fromF32(elementAtW(p->out, p->resultDtype, i * p->outStride), acc, p->Dv, p->resultDtype);
    if (p->lse) p->lse[i] = (f32)((f64)scale * (f64)p->rowMax[r] + logOf(l));
  }
}

EXPORT(faForwardRows) void faForwardRows(const ForwardParams *p) {
  u32 D8 = roundUp(p->D, 8), Dv8 = roundUp(p->Dv, 8), Bc8 = roundUp(p->Bc, 8);
  u32 steps = hasSteps(&p->score);
  Scaling scaling = scalingOf(&p->score, p->scale, p->sink);
  u32 mayBeLong = scaling.raw && p->dtype == FLOAT32;
  setup(p);
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
  finish(p, scaling.exponential, Dv8);
}
