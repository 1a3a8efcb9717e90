// Gradients of attention, tile by tile, P recomputed from lse (FlashAttention-2, algorithm 2; the sums are the same, the
// loops run over blocks of query rows outside and keys inside, so that dq is finished with its block).
//   faBackwardPack    once for a (batch, key head): K and V as panels; keyBegin and keyEnd are a range of whole tiles
//   faBackwardClear   dkAcc and dvAcc to 0
//   faBackwardRows    one block of at most Br query rows of one head: writes dq, adds to dk, dv, dbias, dsink
//   faBackwardFinish  once all heads of the group are through: adds up the parts of dk and dv and writes them, a range of
//                     keys as in faBackwardPack
//
//   Delta = rowsum(dout * out)       P  = exp(s - lse)             dv += dropout(P)^T dout
//   dP = dropout(dout v^T)           dS = P * (dP - Delta)         dk += scale dS^T q        dq = scale dS k
#include "long.h"
#include "micro.h"
#include "pack.h"
#include "pairs.h"
#include "score.h"

DEFINE_GEMM(productQK, ROWS, SET_SCALED)
DEFINE_GEMM(productDoutV, ROWS, SET)
DEFINE_GEMM(productDq, ROWS, ADD)
DEFINE_GEMM(productKeys, TRANSPOSED, ADD)

EXPORT(faBackwardPack) void faBackwardPack(const BackwardParams *p) {
  Matrix k = {p->k, p->dtype, p->kStride}, v = {p->v, p->dtype, p->vStride};
  u32 Bc8 = roundUp(p->Bc, 8);
  for (u32 tile = p->keyBegin / p->Bc, key = tile * p->Bc; key < p->keyEnd; tile++, key += p->Bc) {
    u32 keys = minU(p->Bc, p->Skv - key);
    packTransposed(p->kColumns + tile * Bc8 * p->D, k, key, keys, p->D);
    packTransposed(p->vColumns + tile * Bc8 * p->Dv, v, key, keys, p->Dv);
    p->kFinite[tile] = (u8)packPanels(p->kPanels + key * 8, p->Skv * 8, k, key, keys, p->D);
  }
}

EXPORT(faBackwardClear) void faBackwardClear(const BackwardParams *p) {
  u32 keyRows = ceilDiv(p->Skv, p->Bc) * roundUp(p->Bc, ROW_UNIT);
  fillZero(p->dkAcc, keyRows * roundUp(p->D, 8) * 4);
  fillZero(p->dvAcc, keyRows * roundUp(p->Dv, 8) * 4);
}

// ---- setup: Delta [rows], and lse [rows] in the units of the stored scores, in two parts
// Four rows at a time, each summed over d in the order of the dP product: where a row's softmax is all on one key, out is
// that value row, dP equals Delta to the last bit and dS is exactly 0.
HOT static vec deltaRows(const f32 *dout, const f32 *out, u32 ld, u32 n) {
  vec sum = splat(0);
  for (u32 d = 0; d < n; d++) {
    vec a = wasm_f32x4_make(dout[d], dout[d + ld], dout[d + 2 * ld], dout[d + 3 * ld]);
    vec b = wasm_f32x4_make(out[d], out[d + ld], out[d + 2 * ld], out[d + 3 * ld]);
    sum = madd(a, b, sum);
  }
  return sum;
}

static void setLse(const BackwardParams *p, u32 r, f64 shift) {
  p->rowLse[r] = (f32)shift;
  p->rowLseLow[r] = (f32)(shift - (f64)p->rowLse[r]);
}

static u32 seesAny(const BackwardParams *p, u32 i) {
  for (u32 j = p->keyBegin; j < p->keyEnd; j++)
    if (visible(&p->score, i, j)) return 1;
  return 0;
}

// Returns whether a row needs long scores.
static u32 setup(const BackwardParams *p, f32 scale, u32 Dv8) {
  u32 isLong = 0;
  for (u32 r = 0; r < p->rowCount; r += 4)
    store(p->delta + r, deltaRows(p->doutRows + r * Dv8, p->outRows + r * Dv8, Dv8, p->Dv));
  for (u32 r = 0; r < p->rowCount; r++) {
    if (p->delta[r] != p->delta[r] && !seesAny(p, p->rowBegin + r)) p->delta[r] = 0; // out 0 times a dout that is NaN
    f32 lse = p->lse[p->rowBegin + r], size = __builtin_fabsf(lse);
    setLse(p, r, lse == -INFINITY_F ? 0 : (f64)lse / (f64)scale); // a row that sees no key: exp(-Infinity - 0) = 0
    isLong |= size > LONG_SCORE && size < INFINITY_F;
    if (p->dsink && p->sink != -INFINITY_F) *p->dsink -= expOf((f64)p->sink - (f64)lse) * (f64)p->delta[r];
  }
  return isLong;
}

// ---- load: q, dout and out of the block as rows, q and dout as panels too
typedef struct {
  u32 q, dout;
} Finite;

static Finite loadRows(const BackwardParams *p, u32 D8, u32 Dv8) {
  Matrix q = {p->q, p->dtype, p->qStride}, dout = {p->dout, p->resultDtype, p->outStride};
  Matrix out = {p->out, p->resultDtype, p->outStride};
  u32 padding = roundUp(p->rowCount, 12) - p->rowCount;
  packRows(p->qRows, D8, q, p->rowBegin, p->rowCount, p->D);
  packRows(p->doutRows, Dv8, dout, p->rowBegin, p->rowCount, p->Dv);
  packRows(p->outRows, Dv8, out, p->rowBegin, p->rowCount, p->Dv);
  fillZero(p->qRows + p->rowCount * D8, padding * D8 * 4);
  fillZero(p->doutRows + p->rowCount * Dv8, padding * Dv8 * 4);
  fillZero(p->outRows + p->rowCount * Dv8, padding * Dv8 * 4);
  Finite finite = {
      packPanels(p->qPanels, p->Br * 8, q, p->rowBegin, p->rowCount, p->D),
      packPanels(p->doutPanels, p->Br * 8, dout, p->rowBegin, p->rowCount, p->Dv),
  };
  fillZero(p->dqAcc, roundUp(p->rowCount, ROW_UNIT) * D8 * 4);
  return finite;
}

// ---- softmax: P [rows][Bc8] = exp(s - lse), then dS = P * (dropout(dP) - Delta) and dropout(P) in place
HOT static void probabilityRow(f32 *s, u32 n8, f32 scale, f32 lse, f32 lseLow) {
  vec log2e = splat(LOG2E * scale), high = splat(lse), low = splat(lseLow);
  Exp2 e = exp2Setup();
  for (u32 c = 0; c < n8; c += 4) store(s + c, exp2v(e, mul(sub(sub(load(s + c), high), low), log2e)));
}

HOT static void gradientRow(f32 *probs, f32 *grads, u32 n8, f32 delta) {
  for (u32 c = 0; c < n8; c += 4) store(grads + c, mul(load(probs + c), sub(load(grads + c), splat(delta))));
}

HOT static void gradientDropoutRow(f32 *probs, f32 *grads, const f32 *factors, u32 n, f32 delta) {
  for (u32 c = 0; c < n; c++) {
    f32 p = probs[c], factor = factors[c];
    grads[c] = p * (grads[c] * factor - delta);
    probs[c] = p * factor;
  }
}

HOT static void multiplyRow(f32 *row, const f32 *factors, u32 n8) {
  for (u32 c = 0; c < n8; c += 4) store(row + c, mul(load(row + c), load(factors + c)));
}

// dbias of the tile: dS summed over the dimensions along which bias repeats. Tiles come in a fixed order.
#define DEFINE_ADD_BIAS(name, type)                                                                                    \
  HOT static void name(type *to, u32 keyStride, const f32 *grads, u32 n) {                                             \
    if (keyStride) {                                                                                                   \
      for (u32 c = 0; c < n; c++) to[c] += (type)grads[c];                                                             \
    } else {                                                                                                           \
      type sum = 0;                                                                                                    \
      for (u32 c = 0; c < n; c++) sum += (type)grads[c];                                                               \
      *to += sum;                                                                                                      \
    }                                                                                                                  \
  }
DEFINE_ADD_BIAS(addBiasSingle, f32)
DEFINE_ADD_BIAS(addBiasDouble, f64)

HOT static void probabilityLongRow(f32 *s, const f32 *sLow, u32 n8, f32 scale, f32 lse, f32 lseLow) {
  vec log2e = splat(LOG2E * scale), high = splat(lse), low = splat(lseLow);
  Exp2 e = exp2Setup();
  for (u32 c = 0; c < n8; c += 4)
    store(s + c, exp2v(e, mul(add(sub(load(s + c), high), sub(load(sLow + c), low)), log2e)));
}

static void probabilityTile(const BackwardParams *p, Tile tile, f32 scale, u32 ld, u32 isLong) {
  u32 keys8 = roundUp(tile.keys, 8);
  for (u32 r = 0; r < tile.rows; r++) {
    f32 *s = p->probs + r * ld;
    if (isLong) probabilityLongRow(s, p->probsLow + r * ld, keys8, scale, p->rowLse[r], p->rowLseLow[r]);
    else probabilityRow(s, keys8, scale, p->rowLse[r], p->rowLseLow[r]);
  }
}

static void gradientTile(const BackwardParams *p, Tile tile, Visibility visibility, u32 ld) {
  u32 keys8 = roundUp(tile.keys, 8);
  for (u32 r = 0; r < tile.rows; r++) {
    f32 *probs = p->probs + r * ld, *grads = p->grads + r * ld;
    u32 i = tile.rowBegin + r;
    if (p->score.dropout) {
      const f32 *factors = dropoutFactors(&p->score, p->line, i, tile.keyBegin, tile.keys);
      gradientDropoutRow(probs, grads, factors, tile.keys, p->delta[r]);
    } else gradientRow(probs, grads, keys8, p->delta[r]);
    if (visibility == PARTIAL) { // a hidden v, or a row whose lse is NaN, made NaN of what must be 0
      hideRow(&p->score, grads, i, tile.keyBegin, tile.keys, 0);
      if (p->rowLse[r] != p->rowLse[r]) hideRow(&p->score, probs, i, tile.keyBegin, tile.keys, 0);
    }
    if (p->dbias) {
      u32 at = i * p->dbiasRowStride + tile.keyBegin * p->dbiasKeyStride;
      if (p->dbiasDouble) addBiasDouble((f64 *)p->dbias + at, p->dbiasKeyStride, grads, tile.keys);
      else addBiasSingle((f32 *)p->dbias + at, p->dbiasKeyStride, grads, tile.keys);
    }
    if (p->score.softcap) multiplyRow(grads, p->capGrads + r * ld, keys8);
  }
}

// ---- accumulate: dv [keys][Dv8] += dropout(P)^T dout, dk [keys][D8] += dS^T q, dq [rows][D8] += dS k
static void keysVisible(const BackwardParams *p, Tile tile, f32 *to, u32 n8, const f32 *weights, u32 ld, const f32 *rows) {
  f32 sum[MAX_HEAD_DIM];
  for (u32 c = 0; c < tile.keys; c++) {
    sumOverRows(&p->score, sum, tile.keyBegin + c, tile, weights + c, ld, rows, n8);
    addSum(to + c * n8, sum, n8);
  }
}

static void dqVisible(const BackwardParams *p, Tile tile, u32 D8, u32 ld) {
  f32 sum[MAX_HEAD_DIM];
  for (u32 r = 0; r < tile.rows; r++) {
    const f32 *k = p->kPanels + tile.keyBegin * 8;
    sumOverKeys(&p->score, sum, tile.rowBegin + r, tile, p->grads + r * ld, k, NR, p->Skv * NR, D8);
    addSum(p->dqAcc + r * D8, sum, D8);
  }
}

// ---- finish: rows of f32 accumulators, times a factor, to a tensor
static void writeRows(void *to, u32 dtype, u32 stride, u32 rowBegin, f32 *acc, u32 rows, u32 n, f32 scale) {
  u32 n8 = roundUp(n, 8);
  for (u32 r = 0; r < rows; r++, acc += n8) {
    for (u32 d = 0; d < n8; d += 4) store(acc + d, mul(load(acc + d), splat(scale)));
    fromF32(elementAtW(to, dtype, (rowBegin + r) * stride), acc, n, dtype);
  }
}

typedef struct {
  u32 D8, Dv8, Bc8, keyRows;
  Scaling scaling;
  Finite finite;
  u32 isLong;
} Block;

// ---- scores: S [rows][Bc8] = q k^T (scaled now or in the exponential), then the score program
static void scores(const BackwardParams *p, const Block *block, u32 index, Tile tile, Visibility visibility) {
  u32 keys8 = roundUp(tile.keys, 8);
  const f32 *kColumns = p->kColumns + index * block->Bc8 * p->D;
  if (block->isLong) {
    longProduct(p->probs, p->probsLow, block->Bc8, tile.rows, keys8, p->qRows, block->D8, kColumns, p->D);
    hideLong(&p->score, tile, visibility, p->probs, p->probsLow, block->Bc8);
    return;
  }
  productQK(p->blockRows, p->probs, block->Bc8, tile.rows, keys8, p->qRows, block->D8, kColumns, p->D * 8, p->D, &block->scaling.product);
  if (hasSteps(&p->score) || visibility == PARTIAL || tile.keys != keys8)
    scoreTile(&p->score, tile, visibility, p->probs, p->capGrads, block->Bc8, p->line);
}

static void backwardTile(const BackwardParams *p, const Block *block, u32 index, Tile tile, Visibility visibility) {
  u32 Bc8 = block->Bc8, D8 = block->D8, Dv8 = block->Dv8, keys = tile.keys, keys8 = roundUp(keys, 8);
  scores(p, block, index, tile, visibility);
  probabilityTile(p, tile, block->scaling.exponential, Bc8, block->isLong);
  productDoutV(p->blockRows, p->grads, Bc8, tile.rows, keys8, p->doutRows, Dv8, p->vColumns + index * Bc8 * p->Dv, p->Dv * 8, p->Dv, 0);
  gradientTile(p, tile, visibility, Bc8);

  f32 *dv = p->dvAcc + index * block->keyRows * Dv8, *dk = p->dkAcc + index * block->keyRows * D8;
  if (visibility == PARTIAL && !block->finite.dout) keysVisible(p, tile, dv, Dv8, p->probs, Bc8, p->doutRows);
  else productKeys(p->blockRows, dv, Dv8, keys, Dv8, p->probs, Bc8, p->doutPanels, p->Br * 8, tile.rows, 0);

  if (visibility == PARTIAL && !block->finite.q) keysVisible(p, tile, dk, D8, p->grads, Bc8, p->qRows);
  else productKeys(p->blockRows, dk, D8, keys, D8, p->grads, Bc8, p->qPanels, p->Br * 8, tile.rows, 0);

  if (visibility == PARTIAL && !p->kFinite[index]) dqVisible(p, tile, D8, Bc8);
  else productDq(p->blockRows, p->dqAcc, D8, tile.rows, D8, p->grads, Bc8, p->kPanels + tile.keyBegin * 8, p->Skv * 8, keys, 0);
}

// An lse of size 1000 is itself only right to 3e-5. The sum of exp(s - lse) over a row is 1, and what it is instead is the
// error of lse.
static void sumTile(const BackwardParams *p, const Block *block, u32 index, Tile tile, Visibility visibility) {
  scores(p, block, index, tile, visibility);
  probabilityTile(p, tile, block->scaling.exponential, block->Bc8, 1);
  for (u32 r = 0; r < tile.rows; r++)
    for (u32 c = 0; c < tile.keys; c++) p->rowTotal[r] += (f64)p->probs[r * block->Bc8 + c];
}

static void eachTile(const BackwardParams *p, const Block *block,
                     void (*use)(const BackwardParams *, const Block *, u32, Tile, Visibility)) {
  for (u32 index = p->keyBegin / p->Bc, key = index * p->Bc; key < p->keyEnd; index++, key += p->Bc) {
    u32 keys = minU(p->Bc, p->Skv - key);
    Tile tile = {p->rowBegin, p->rowCount, key, keys};
    Visibility visibility = tileVisibility(&p->score, tile, key >= p->fullBegin && key + keys <= p->fullEnd);
    if (visibility != EMPTY) use(p, block, index, tile, visibility);
  }
}

static void correctLse(const BackwardParams *p, const Block *block) {
  fillZero(p->rowTotal, p->rowCount * 8);
  eachTile(p, block, sumTile);
  for (u32 r = 0; r < p->rowCount; r++) {
    f64 total = p->rowTotal[r], shift = (f64)p->rowLse[r] + (f64)p->rowLseLow[r];
    if (total > 0) setLse(p, r, shift + logOf(total) / (f64)block->scaling.exponential);
  }
}

EXPORT(faBackwardRows) void faBackwardRows(const BackwardParams *p) {
  u32 D8 = roundUp(p->D, 8), Dv8 = roundUp(p->Dv, 8);
  Scaling scaling = scalingOf(&p->score, p->scale, p->sink);
  Finite finite = loadRows(p, D8, Dv8);
  u32 isLong = setup(p, scaling.exponential, Dv8) && scaling.raw && p->dtype == FLOAT32;
  Block block = {D8, Dv8, roundUp(p->Bc, 8), roundUp(p->Bc, ROW_UNIT), scaling, finite, isLong};
  if (isLong) correctLse(p, &block);
  eachTile(p, &block, backwardTile);
  writeRows(p->dq, p->resultDtype, p->qStride, p->rowBegin, p->dqAcc, p->rowCount, p->D, p->scale);
}

HOT static void addPart(f32 *to, const f32 *part, u32 n) {
  for (u32 i = 0; i < n; i += 4) store(to + i, add(load(to + i), load(part + i)));
}

// One tile of dk or dv: the parts added in their order to the first, which is written.
static void finishTile(const BackwardParams *p, void *to, u32 stride, u32 key, u32 keys, f32 *acc, u32 part, u32 n, f32 scale) {
  for (u32 m = 1; m < p->parts; m++) addPart(acc, acc + m * part, keys * roundUp(n, 8));
  writeRows(to, p->resultDtype, stride, key, acc, keys, n, scale);
}

EXPORT(faBackwardFinish) void faBackwardFinish(const BackwardParams *p) {
  u32 keyRows = roundUp(p->Bc, ROW_UNIT);
  for (u32 tile = p->keyBegin / p->Bc, key = tile * p->Bc; key < p->keyEnd; tile++, key += p->Bc) {
    u32 keys = minU(p->Bc, p->Skv - key);
    f32 *dk = p->dkAcc + tile * keyRows * roundUp(p->D, 8), *dv = p->dvAcc + tile * keyRows * roundUp(p->Dv, 8);
    finishTile(p, p->dk, p->kStride, key, keys, dk, p->dkPart, p->D, p->scale);
    finishTile(p, p->dv, p->vStride, key, keys, dv, p->dvPart, p->Dv, 1);
  }
}
