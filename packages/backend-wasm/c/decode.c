// Few query rows: the rows of all query heads that share a key head are one block, and K and V are read once, as they lie,
// without being packed. Row r of the block is row r % Sq of head r / Sq of the group.
//   faDecode   all rows of one (batch, key head), at most MAX_DECODE_ROWS
#include "long.h"
#include "micro.h"
#include "pack.h"
#include "pairs.h"
#include "softmax.h"

#define MAX_DECODE_ROWS 16 // as the kernel table says

#define LINE 16        // elements of a cache line
#define AHEAD_FROM 128 // keys with rows so long are read ahead; the machine sees that shorter ones follow each other

// Vectors of two rows of values: as many as fit the registers beside the operands (mul and add need one more than FMA).
#ifdef __wasm_relaxed_simd__
#define WIDE 6
#else
#define WIDE 4
#endif

// Rows of K or V of a tile as f32, stride elements apart, of which whole vectors may be read.
typedef struct {
  const f32 *rows;
  u32 stride, finite;
} Operand;

// As they lie if they may and can be read so, else copied to `to`, n8 apart. Whether they are finite counts in the second case only.
static Operand operand(Matrix from, f32 *to, u32 key, u32 keys, u32 n, u32 unit, u32 asTheyLie) {
  if (asTheyLie && from.dtype == FLOAT32 && n % unit == 0)
    return (Operand){(const f32 *)from.data + key * from.rowStride, from.rowStride, 1};
  u32 ld = roundUp(n, NR);
  packRows(to, ld, from, key, keys, n);
  return (Operand){to, ld, asTheyLie || rowsAreFinite(to, ld, keys, n)};
}

// ---- load: the lines of a tile, a word of each in the order in which they lie. Wasm has no prefetch, and where the machine
// sees a sum it reads from memory three times as fast as where it sees the products below.
INLINE void touch(const f32 *line) { (void)*(const volatile f32 *)line; }

HOT static void readAhead(Operand of, u32 keys, u32 n) {
  const f32 *row = of.rows;
  if (of.stride == n) n *= keys, keys = 1;
  for (; keys; keys--, row += of.stride) {
    u32 at = 0;
    for (; at + 8 * LINE <= n; at += 8 * LINE) {
#pragma unroll
      for (u32 l = 0; l < 8; l++) touch(row + at + l * LINE);
    }
    for (; at < n; at += LINE) touch(row + at);
  }
}

// ---- scores: S [rows][keys] = scale q k^T, sums over d in four parts, in blocks of 8: 1 row x 8 keys, 2 x 4 or 4 x 2
#define BLOCK 8

INLINE void dots(const u32 rows, vec acc[BLOCK], const f32 *q, u32 D8, const f32 *k, u32 stride, u32 n) {
  const u32 keys = BLOCK / rows;
#pragma unroll
  for (u32 at = 0; at < BLOCK; at++) acc[at] = splat(0);
  for (u32 d = 0; d < n; d += 4) {
    vec x[BLOCK];
    if (rows > keys) { // keys stay in registers, or else rows
#pragma unroll
      for (u32 c = 0; c < keys; c++) x[c] = load(k + c * stride + d);
#pragma unroll
      for (u32 r = 0; r < rows; r++) {
        vec y = load(q + r * D8 + d);
#pragma unroll
        for (u32 c = 0; c < keys; c++) acc[r * keys + c] = madd(y, x[c], acc[r * keys + c]);
      }
    } else {
#pragma unroll
      for (u32 r = 0; r < rows; r++) x[r] = load(q + r * D8 + d);
#pragma unroll
      for (u32 c = 0; c < keys; c++) {
        vec y = load(k + c * stride + d);
#pragma unroll
        for (u32 r = 0; r < rows; r++) acc[r * keys + c] = madd(y, x[r], acc[r * keys + c]);
      }
    }
  }
}

// The sums of the lanes of four vectors.
INLINE vec sumOfFour(vec a, vec b, vec c, vec d) {
  vec ab = add(wasm_i32x4_shuffle(a, b, 0, 4, 1, 5), wasm_i32x4_shuffle(a, b, 2, 6, 3, 7));
  vec cd = add(wasm_i32x4_shuffle(c, d, 0, 4, 1, 5), wasm_i32x4_shuffle(c, d, 2, 6, 3, 7));
  return add(wasm_i64x2_shuffle(ab, cd, 0, 2), wasm_i64x2_shuffle(ab, cd, 1, 3));
}

// The last block ends with the last key: it overlaps the one before, whose scores it makes again. Fewer keys than a block
// are copied to where there is room for more.
INLINE void scores(const u32 rows, f32 *s, u32 ld, const f32 *q, u32 D8, Operand k, u32 at, u32 keys, u32 n, f32 scale) {
  const u32 block = BLOCK / rows;
  u32 c = keys < block ? 0 : minU(at, keys - block);
  vec a[BLOCK], factor = splat(scale);
  dots(rows, a, q, D8, k.rows + c * k.stride, k.stride, n);
  vec front = mul(factor, sumOfFour(a[0], a[1], a[2], a[3])), back = mul(factor, sumOfFour(a[4], a[5], a[6], a[7]));
  s += c;
  if (rows == 4) {
    wasm_v128_store64_lane(s, front, 0);
    wasm_v128_store64_lane(s + ld, front, 1);
    wasm_v128_store64_lane(s + 2 * ld, back, 0);
    wasm_v128_store64_lane(s + 3 * ld, back, 1);
  } else {
    store(s, front);
    store(s + (rows == 2 ? ld : 4), back);
  }
}

// Rows are rounded up to R.
#define DEFINE_SCORES(name, R)                                                                                         \
  HOT static void name(f32 *s, u32 ld, u32 rows, const f32 *q, u32 D8, Operand k, u32 keys, u32 n, f32 scale) {        \
    for (u32 at = 0; at < keys; at += BLOCK / R)                                                                       \
      for (u32 r = 0; r < rows; r += R) scores(R, s + r * ld, ld, q + r * D8, D8, k, at, keys, n, scale);              \
  }
DEFINE_SCORES(scoresOfOne, 1)
DEFINE_SCORES(scoresOfTwo, 2)
DEFINE_SCORES(scoresOfFour, 4)

// ---- accumulate: acc [rows][Dv8] = alpha acc + P V, a register block of `rows` rows by `vectors` vectors
INLINE void weigh(const u32 rows, const u32 vectors, f32 *c, u32 Dv8, const f32 *weights, u32 ld, const f32 *v, u32 stride,
                  u32 keys, const f32 *alpha) {
  vec acc[2][8];
#pragma unroll
  for (u32 r = 0; r < rows; r++)
#pragma unroll
    for (u32 d = 0; d < vectors; d++) acc[r][d] = splat(0);
  for (u32 key = 0; key < keys; key++, v += stride) {
    vec first = loadSplat(weights + key), second = rows == 2 ? loadSplat(weights + ld + key) : first;
#pragma unroll
    for (u32 d = 0; d < vectors; d++) {
      vec x = load(v + 4 * d);
      acc[0][d] = madd(first, x, acc[0][d]);
      if (rows == 2) acc[1][d] = madd(second, x, acc[1][d]);
    }
  }
#pragma unroll
  for (u32 r = 0; r < rows; r++)
#pragma unroll
    for (u32 d = 0; d < vectors; d++) {
      f32 *to = c + r * Dv8 + 4 * d;
      store(to, madd(loadSplat(alpha + r), load(to), acc[r][d]));
    }
}

#define DEFINE_WEIGH(name, R, N)                                                                                       \
  HOT static void name(f32 *c, u32 Dv8, const f32 *weights, u32 ld, Operand v, u32 keys, const f32 *alpha) {           \
    u32 d = 0;                                                                                                         \
    for (; d + 4 * N <= Dv8 && Dv8 - d != 32; d += 4 * N) /* 32 are two times 16 */                                    \
      weigh(R, N, c + d, Dv8, weights, ld, v.rows + d, v.stride, keys, alpha);                                         \
    for (; d + 16 <= Dv8; d += 16) weigh(R, 4, c + d, Dv8, weights, ld, v.rows + d, v.stride, keys, alpha);            \
    for (; d < Dv8; d += NR) weigh(R, 2, c + d, Dv8, weights, ld, v.rows + d, v.stride, keys, alpha);                  \
  }
DEFINE_WEIGH(weighOne, 1, 8)
DEFINE_WEIGH(weighTwo, 2, WIDE)

static void accumulate(const ForwardParams *p, u32 rows, u32 ld, u32 Dv8, Operand v, u32 keys) {
  for (u32 r = 0; r < rows; r += 2)
    (r + 1 < rows ? weighTwo : weighOne)(p->acc + r * Dv8, Dv8, p->scores + r * ld, ld, v, keys, p->rowScale + r);
}

static void accumulateVisible(const ForwardParams *p, Tile tile, u32 ld, u32 Dv8, Operand v) {
  f32 sum[MAX_HEAD_DIM];
  for (u32 r = 0; r < tile.rows; r++) {
    sumOverKeys(&p->score, sum, tile.rowBegin + r, tile, p->scores + r * ld, v.rows, v.stride, NR, Dv8);
    scaleAddSum(p->acc + r * Dv8, p->rowScale[r], sum, Dv8);
  }
}

// Keys come by 2, 4 or 8.
static u32 ldOf(const ForwardParams *p) { return roundUp(p->Bc, 24); }

// The params of one head: its tensors, its score program, its rows of the block.
static ForwardParams paramsOfHead(const ForwardParams *p, u32 h) {
  ForwardParams head = *p;
  u32 r = h * p->rowCount, ld = ldOf(p);
  head.q = elementAt(p->q, p->dtype, h * p->qHeadStride);
  head.out = elementAtW(p->out, p->resultDtype, h * p->outHeadStride);
  if (p->lse) head.lse += r;
  if (p->score.bias) head.score.bias = elementAt(p->score.bias, p->score.biasDtype, h * p->biasHeadStride);
  if (p->score.mask) head.score.mask += h * p->maskHeadStride;
  if (p->slopes) head.score.slope = p->slopes[h];
  if (p->sinks) head.sink = p->sinks[h];
  head.score.dropoutHead += h;
  head.qRows += r * roundUp(p->D, 8);
  head.scores += r * ld;
  head.scoresLow += r * ld;
  head.acc += r * roundUp(p->Dv, 8);
  head.rowMax += r;
  head.rowTop += r;
  head.rowSum += r;
  head.rowScale += r;
  return head;
}

EXPORT(faDecode) void faDecode(const ForwardParams *p) {
  u32 D8 = roundUp(p->D, 8), Dv8 = roundUp(p->Dv, 8), ld = ldOf(p), rows = p->heads * p->rowCount;
  Matrix k = {p->k, p->dtype, p->kStride}, v = {p->v, p->dtype, p->vStride};
  ForwardParams heads[MAX_DECODE_ROWS];
  Visibility sees[MAX_DECODE_ROWS];
  u32 steps = p->slopes != 0; // a head whose slope is 0 goes the way of the others
  for (u32 h = 0; h < p->heads; h++) {
    heads[h] = paramsOfHead(p, h);
    steps |= hasSteps(&heads[h].score);
    setupRows(&heads[h]);
    loadQ(&heads[h]);
  }
  Scaling scaling = scalingOf(&p->score, p->scale, p->sinks || steps ? 0 : -INFINITY_F);
  u32 mayBeLong = scaling.raw && p->dtype == FLOAT32;

  for (u32 key = p->keyBegin / p->Bc * p->Bc; key < p->keyEnd; key += p->Bc) {
    u32 keys = minU(p->Bc, p->Skv - key), keys8 = roundUp(keys, 8), some = 0, all = 1;
    Tile tile = {p->rowBegin, p->rowCount, key, keys};
    for (u32 h = 0; h < p->heads; h++) {
      sees[h] = tileVisibility(&heads[h].score, tile, key >= p->fullBegin && key + keys <= p->fullEnd);
      some |= sees[h] != EMPTY;
      all &= sees[h] == FULL;
      if (sees[h] == EMPTY) sees[h] = PARTIAL; // what a head does not see at all is hidden key by key
    }
    if (!some) continue;

    Operand kRows = operand(k, p->kColumns, key, keys, p->D, 4, keys >= 8);
    if (p->D >= AHEAD_FROM) readAhead(kRows, keys, p->D);
    (rows == 1 ? scoresOfOne : rows == 2 ? scoresOfTwo : scoresOfFour)(
        p->scores, ld, rows, p->qRows, D8, kRows, keys, kRows.rows == p->kColumns ? D8 : p->D, scaling.product);
    u32 isLong = 0;
    for (u32 h = 0; h < p->heads; h++)
      if (steps || sees[h] == PARTIAL || keys != keys8)
        scoreTile(&heads[h].score, tile, sees[h], heads[h].scores, 0, ld, p->line);
    for (u32 r = 0; r < rows; r += 4)
      isLong |= maxRows(p, r, rows - r, p->scores + r * ld, ld, keys8, LONG_SCORE / scaling.exponential);
    isLong &= mayBeLong;
    if (isLong) {
      packTransposed(p->kColumns, k, key, keys, p->D);
      longProduct(p->scores, p->scoresLow, ld, rows, keys8, p->qRows, D8, p->kColumns, p->D);
      for (u32 h = 0; h < p->heads; h++) hideLong(&heads[h].score, tile, sees[h], heads[h].scores, heads[h].scoresLow, ld);
      for (u32 r = 0; r < rows; r += 4) maxRows(p, r, rows - r, p->scores + r * ld, ld, keys8, 0);
    }
    for (u32 r = 0; r < rows; r += 4)
      softmaxRows(p, r, p->scores + r * ld, isLong ? p->scoresLow + r * ld : 0, ld, keys8, scaling.exponential);
    if (p->score.dropout)
      for (u32 h = 0; h < p->heads; h++) dropTile(&heads[h], tile, ld);

    // Where something is hidden, V is copied, which tells whether it is finite.
    Operand vRows = operand(v, p->vPanels, key, keys, p->Dv, NR, all);
    readAhead(vRows, keys, p->Dv);
    if (vRows.finite) accumulate(p, rows, ld, Dv8, vRows, keys);
    else
      for (u32 h = 0; h < p->heads; h++) accumulateVisible(&heads[h], tile, ld, Dv8, vRows);
  }
  for (u32 h = 0; h < p->heads; h++) finishRows(&heads[h], scaling.exponential);
}
