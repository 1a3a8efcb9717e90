#include "pack.h"

// x - x is 0 exactly when x is finite: its sum over a row is 0, or NaN.
HOT static u32 rowIsFinite(const f32 *row, u32 n8) {
  vec bad = splat(0);
  for (u32 i = 0; i < n8; i += 4) bad = add(bad, sub(load(row + i), load(row + i)));
  return !wasm_v128_any_true(wasm_f32x4_ne(bad, bad));
}

// One row as f32, and zeros up to a multiple of 8.
static void readRow(f32 *to, Matrix from, u32 row, u32 n) {
  toF32(to, elementAt(from.data, from.dtype, row * from.rowStride), n, from.dtype);
  for (u32 i = n; i < roundUp(n, 8); i++) to[i] = 0;
}

void packRows(f32 *to, u32 ld, Matrix from, u32 rowBegin, u32 rows, u32 n) {
  u32 n8 = roundUp(n, 8);
  for (u32 r = 0; r < rows; r++, to += ld) {
    readRow(to, from, rowBegin + r, n);
    fillZero(to + n8, (ld - n8) * 4);
  }
}

u32 rowsAreFinite(const f32 *from, u32 ld, u32 rows, u32 n) {
  u32 finite = 1;
  for (u32 r = 0; r < rows; r++) finite &= rowIsFinite(from + r * ld, roundUp(n, 8));
  return finite;
}

// eight [8][ld] becomes to [n][8]
HOT static void transpose8(f32 *to, const f32 *eight, u32 ld, u32 n) {
  for (u32 k = 0; k < n; k += 4) {
    for (u32 half = 0; half < 8; half += 4) {
      const f32 *from = eight + half * ld + k;
      vec a = load(from), b = load(from + ld), c = load(from + 2 * ld), d = load(from + 3 * ld);
      transpose4(&a, &b, &c, &d);
      f32 *column = to + k * 8 + half;
      store(column, a);
      if (k + 1 < n) store(column + 8, b);
      if (k + 2 < n) store(column + 16, c);
      if (k + 3 < n) store(column + 24, d);
    }
  }
}

void packTransposed(f32 *to, Matrix from, u32 rowBegin, u32 rows, u32 n) {
  f32 eight[8 * MAX_PACK_COLUMNS];
  u32 ld = roundUp(n, 8);
  for (u32 row = 0; row < rows; row += 8, to += n * 8) {
    u32 count = minU(8, rows - row);
    if (from.dtype == FLOAT32 && count == 8 && n % 4 == 0) { // whole vectors, as they lie
      transpose8(to, (const f32 *)from.data + (rowBegin + row) * from.rowStride, from.rowStride, n);
      continue;
    }
    for (u32 r = 0; r < count; r++) readRow(eight + r * ld, from, rowBegin + row + r, n);
    fillZero(eight + count * ld, (8 - count) * ld * 4);
    transpose8(to, eight, ld, n);
  }
}

// Returns whether every element is finite.
HOT static u32 spreadRow(f32 *to, u32 panelStride, const f32 *row, u32 n) {
  vec bad = splat(0);
  for (u32 column = 0; column < n; column += 8, to += panelStride) {
    vec a = load(row + column), b = load(row + column + 4);
    store(to, a);
    store(to + 4, b);
    bad = add(bad, add(sub(a, a), sub(b, b)));
  }
  return !wasm_v128_any_true(wasm_f32x4_ne(bad, bad));
}

u32 packPanels(f32 *to, u32 panelStride, Matrix from, u32 rowBegin, u32 rows, u32 n) {
  f32 row[MAX_PACK_COLUMNS];
  u32 finite = 1, asItLies = from.dtype == FLOAT32 && n % 8 == 0;
  for (u32 r = 0; r < rows; r++, to += 8) {
    if (!asItLies) readRow(row, from, rowBegin + r, n);
    finite &= spreadRow(to, panelStride, asItLies ? (const f32 *)from.data + (rowBegin + r) * from.rowStride : row, n);
  }
  return finite;
}
