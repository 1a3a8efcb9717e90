// out = softmax(score program(q k^T)) v and lse = ln sum exp, one block of query rows a call (FlashAttention-2, algorithm 1).
//   faForwardPack   once for a (batch, key head): K and V as panels, shared by the query heads of its group
//   faForwardRows   one block of at most Br query rows of one head
#include "long.h"
#include "micro.h"
#include "pack.h"
#include "pairs.h"
#include "score.h"

DEFINE_GEMM(productQK, ROWS, SET_SCALED)
DEFINE_GEMM(productPV, ROWS, SCALE_ADD)

EXPORT(faForwardPack) void faForwardPack(const ForwardParams *p) {
  Matrix k = {p->k, p->dtype, p->kStride}, v = {p->v, p->dtype, p->vStride};
  u32 tileColumns = roundUp(p->Bc, 8) * p->D;
  for (u32 tile = 0, key = 0; key < p->Skv; tile++, key += p->Bc) {
    u32 keys = minU(p->Bc, p->Skv - key);
    packTransposed(p->kColumns + tile * tileColumns, k, key, keys, p->D);
    p->vFinite[tile] = (u8)packPanels(p->vPanels + key * 8, p->Skv * 8, v, key, keys, p->Dv);
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

// ---- softmax: s [n8] becomes P = exp(scale (s - m')), and m, l, alpha of the row follow
// While a row has seen no key, m is -Infinity and 0 is subtracted in its place: exp(-Infinity - 0) = 0, never NaN.
HOT static f32 maxOfRow(const f32 *s, u32 n8, f32 m) {
  vec top0 = splat(m), top1 = top0;
  for (u32 c = 0; c < n8; c += 8) {
    top0 = maxSkipNaN(top0, load(s + c));
    top1 = maxSkipNaN(top1, load(s + c + 4));
  }
  return maxLanes(maxSkipNaN(top0, top1));
}

HOT static f32 exponentialRow(f32 *s, u32 n8, f32 shift, f32 scale) {
  vec subtract = splat(shift), log2e = splat(LOG2E * scale), sum0 = splat(0), sum1 = sum0;
  for (u32 c = 0; c < n8; c += 8) {
    vec p0 = exp2v(mul(sub(load(s + c), subtract), log2e));
    vec p1 = exp2v(mul(sub(load(s + c + 4), subtract), log2e));
    store(s + c, p0);
    store(s + c + 4, p1);
    sum0 = add(sum0, p0);
    sum1 = add(sum1, p1);
  }
  return sumLanes(add(sum0, sum1));
}

HOT static f32 exponentialLongRow(f32 *s, const f32 *low, u32 n8, f32 shift, f32 scale) {
  vec subtract = splat(shift), log2e = splat(LOG2E * scale), sum = splat(0);
  for (u32 c = 0; c < n8; c += 4) {
    vec p = exp2v(mul(add(sub(load(s + c), subtract), load(low + c)), log2e));
    store(s + c, p);
    sum = add(sum, p);
  }
  return sumLanes(sum);
}

HOT static void multiplyRow(f32 *row, const f32 *factors, u32 n) {
  u32 c = 0;
  for (; c + 4 <= n; c += 4) store(row + c, mul(load(row + c), load(factors + c)));
  for (; c < n; c++) row[c] *= factors[c];
}

// m' [rows] of the tile and all before it. Returns whether a finite one is above the limit in size.
static u32 maxTile(const ForwardParams *p, Tile tile, u32 ld, f32 limit) {
  u32 keys8 = roundUp(tile.keys, 8), above = 0;
  for (u32 r = 0; r < tile.rows; r++) {
    f32 top = maxOfRow(p->scores + r * ld, keys8, p->rowMax[r]), size = __builtin_fabsf(top);
    p->rowTop[r] = top;
    above |= size > limit && size < INFINITY_F;
  }
  return above;
}

static void softmaxTile(const ForwardParams *p, Tile tile, f32 scale, u32 ld, u32 isLong) {
  u32 keys8 = roundUp(tile.keys, 8);
  for (u32 r = 0; r < tile.rows; r++) {
    f32 *s = p->scores + r * ld, m = p->rowTop[r], shift = m == -INFINITY_F ? 0 : m;
    f32 sum = isLong ? exponentialLongRow(s, p->scoresLow + r * ld, keys8, shift, scale)
                     : exponentialRow(s, keys8, shift, scale);
    f32 alpha = lane(exp2v(splat((p->rowMax[r] - shift) * (LOG2E * scale))), 0);
    p->rowSum[r] = p->rowSum[r] * alpha + sum;
    p->rowScale[r] = alpha;
    p->rowMax[r] = m;
    if (p->score.dropout)
      multiplyRow(s, dropoutFactors(&p->score, p->line, tile.rowBegin + r, tile.keyBegin, tile.keys), tile.keys);
  }
}

// ---- accumulate: acc [rows][Dv8] = alpha acc + P V
static void accumulateVisible(const ForwardParams *p, Tile tile, u32 ld, u32 Dv8) {
  f32 sum[MAX_HEAD_DIM];
  for (u32 r = 0; r < tile.rows; r++) {
    const f32 *v = p->vPanels + tile.keyBegin * 8;
    sumOverKeys(&p->score, sum, tile.rowBegin + r, tile, p->scores + r * ld, v, p->Skv * 8, Dv8);
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

    // ---- scores: S [rows][Bc8] = q k^T (scaled now or in the exponential), then the score program
    u32 keys8 = roundUp(keys, 8);
    const f32 *kColumns = p->kColumns + index * Bc8 * p->D;
    productQK(p->scores, Bc8, p->rowCount, keys8, p->qRows, D8, kColumns, p->D * 8, p->D, &scaling.product);
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
    else
      productPV(p->acc, Dv8, p->rowCount, Dv8, p->scores, Bc8, p->vPanels + key * 8, p->Skv * 8, keys, p->rowScale);
  }
  finish(p, scaling.exponential, Dv8);
}
