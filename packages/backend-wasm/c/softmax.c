#include "softmax.h"
#include "micro.h"
#include "pack.h"

void setupRows(const ForwardParams *p) {
  u32 hasSink = p->sink != -INFINITY_F;
  for (u32 r = 0; r < p->rowCount; r++) p->rowMax[r] = p->sink, p->rowSum[r] = hasSink ? 1 : 0;
  u32 padded = roundUp(p->rowCount, ROW_UNIT);
  fillZero(p->rowScale, padded * 4);
  fillZero(p->acc, padded * roundUp(p->Dv, 8) * 4);
}

void loadQ(const ForwardParams *p) {
  Matrix q = {p->q, p->dtype, p->qStride};
  u32 ld = roundUp(p->D, 8);
  packRows(p->qRows, ld, q, p->rowBegin, p->rowCount, p->D);
  fillZero(p->qRows + p->rowCount * ld, (roundUp(p->rowCount, ROW_UNIT) - p->rowCount) * ld * 4);
}

u32 maxRows(const ForwardParams *p, u32 r, u32 rows, const f32 *s, u32 ld, u32 n8, f32 limit) {
  vec a = splat(-INFINITY_F), b = a, c = a, d = a;
  for (u32 n = 0; n < n8; n += 4) {
    a = maxSkipNaN(a, load(s + n));
    b = maxSkipNaN(b, load(s + n + ld));
    c = maxSkipNaN(c, load(s + n + 2 * ld));
    d = maxSkipNaN(d, load(s + n + 3 * ld));
  }
  transpose4(&a, &b, &c, &d);
  vec top = maxSkipNaN(load(p->rowMax + r), maxSkipNaN(maxSkipNaN(a, b), maxSkipNaN(c, d)));
  store(p->rowTop + r, top);
  vec size = wasm_f32x4_abs(top), inside = wasm_i32x4_lt(wasm_i32x4_make(0, 1, 2, 3), wasm_i32x4_splat((i32)rows));
  vec large = wasm_v128_and(wasm_f32x4_gt(size, splat(limit)), wasm_f32x4_lt(size, splat(INFINITY_F)));
  return wasm_v128_any_true(wasm_v128_and(large, inside));
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

// While a row has seen no key, m is -Infinity and 0 is subtracted in its place: exp(-Infinity - 0) = 0, never NaN.
void softmaxRows(const ForwardParams *p, u32 r, f32 *s, const f32 *low, u32 ld, u32 n8, f32 scale) {
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

void dropTile(const ForwardParams *p, Tile tile, u32 ld) {
  for (u32 r = 0; r < tile.rows; r++)
    multiplyRow(p->scores + r * ld, dropoutFactors(&p->score, p->line, tile.rowBegin + r, tile.keyBegin, tile.keys), tile.keys);
}

HOT static void divideRow(f32 *acc, u32 n8, f32 l) {
  vec divisor = splat(l);
  for (u32 d = 0; d < n8; d += 4) {
    vec x = wasm_f32x4_div(load(acc + d), divisor);
    store(acc + d, add(x, sub(x, x)));
  }
}

void finishRows(const ForwardParams *p, f32 scale) {
  u32 Dv8 = roundUp(p->Dv, 8);
  for (u32 r = 0; r < p->rowCount; r++) {
    f32 *acc = p->acc + r * Dv8, l = p->rowSum[r];
    u32 i = p->rowBegin + r;
    if (l == 0) fillZero(acc, Dv8 * 4); // an empty row, whatever its values hold
    else divideRow(acc, Dv8, l);
    fromF32(elementAtW(p->out, p->resultDtype, i * p->outStride), acc, p->Dv, p->resultDtype);
    if (p->lse) p->lse[i] = (f32)((f64)scale * (f64)p->rowMax[r] + logOf(l));
  }
}

