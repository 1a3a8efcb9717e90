#include "pack.h"

// x - x is 0 exactly when x is finite: its sum over a row is 0, or NaN.
HOT static u32 rowIsFinite(const f32 *row, u32 n8) {
  vec bad = splat(0);
  for (u32 i = 0; i < n8; i += 4) bad = add(bad, sub(load(row + i), load(row + i)));
  return !wasm_v128_any_true(wasm_f32x4_ne(bad, bad));
}

// One row as f32, and zeros up to a multiple of 8.
static u32 readRow(f32 *to, Matrix from, u32 row, u32 n) {
  u32 n8 = roundUp(n, 8);
  toF32(to, elementAt(from.data, from.dtype, row * from.rowStride), n, from.dtype);
  fillZero(to + n, (n8 - n) * 4);
  return rowIsFinite(to, n8);
}

u32 packRows(f32 *to, u32 ld, Matrix from, u32 rowBegin, u32 rows, u32 n) {
  u32 finite = 1;
  for (u32 r = 0; r < rows; r++, to += ld) {
    finite &= readRow(to, from, rowBegin + r, n);
    u32 n8 = roundUp(n, 8);
    if (n8 < ld) fillZero(to + n8, (ld - n8) * 4);
  }
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

u32 packTransposed(f32 *to, Matrix from, u32 rowBegin, u32 rows, u32 n) {
  f32 eight[8 * MAX_PACK_COLUMNS];
  u32 finite = 1, ld = roundUp(n, 8);
  for (u32 row = 0; row < rows; row += 8, to += n * 8) {
    u32 count = minU(8, rows - row);
    for (u32 r = 0; r < count; r++) finite &= readRow(eight + r * ld, from, rowBegin + row + r, n);
    fillZero(eight + count * ld, (8 - count) * ld * 4);
    transpose8(to, eight, ld, n);
  }
  return finite;
}

HOT static void spreadRow(f32 *to, u32 panelStride, const f32 *row, u32 n) {
  for (u32 column = 0; column < n; column += 8, to += panelStride) {
    store(to, load(row + column));
    store(to + 4, load(row + column + 4));
  }
}

u32 packPanels(f32 *to, u32 panelStride, Matrix from, u32 rowBegin, u32 rows, u32 n) {
  f32 row[MAX_PACK_COLUMNS];
  u32 finite = 1;
  for (u32 r = 0; r < rows; r++, to += 8) {
    finite &= readRow(row, from, rowBegin + r, n);
    spreadRow(to, panelStride, row, n);
  }
  return finite;
}
