#include "long.h"
#include "micro.h"

// 4 rows by 4 columns, half of a panel.
HOT static void longBlock(f32 *high, f32 *low, u32 ld, const f32 *a, u32 stride, const f32 *b, u32 n) {
  vec acc[4][2];
#pragma unroll
  for (u32 r = 0; r < 4; r++) acc[r][0] = acc[r][1] = wasm_f64x2_splat(0);
  for (u32 k = 0; k < n; k++, a++, b += NR) {
    vec columns = load(b);
    vec b0 = wasm_f64x2_promote_low_f32x4(columns);
    vec b1 = wasm_f64x2_promote_low_f32x4(wasm_i32x4_shuffle(columns, columns, 2, 3, 2, 3));
#pragma unroll
    for (u32 r = 0; r < 4; r++) {
      vec x = wasm_f64x2_splat((f64)a[r * stride]); // the product of two f32 is exact in double
      acc[r][0] = wasm_f64x2_add(acc[r][0], wasm_f64x2_mul(x, b0));
      acc[r][1] = wasm_f64x2_add(acc[r][1], wasm_f64x2_mul(x, b1));
    }
  }
#pragma unroll
  for (u32 r = 0; r < 4; r++) {
    vec h0 = wasm_f32x4_demote_f64x2_zero(acc[r][0]), h1 = wasm_f32x4_demote_f64x2_zero(acc[r][1]);
    vec l0 = wasm_f32x4_demote_f64x2_zero(wasm_f64x2_sub(acc[r][0], wasm_f64x2_promote_low_f32x4(h0)));
    vec l1 = wasm_f32x4_demote_f64x2_zero(wasm_f64x2_sub(acc[r][1], wasm_f64x2_promote_low_f32x4(h1)));
    store(high + r * ld, wasm_i64x2_shuffle(h0, h1, 0, 2));
    store(low + r * ld, wasm_i64x2_shuffle(l0, l1, 0, 2));
  }
}

void longProduct(f32 *high, f32 *low, u32 ld, u32 rows, u32 columns, const f32 *a, u32 stride, const f32 *b, u32 n) {
  for (u32 column = 0; column < columns; column += NR, b += n * NR)
    for (u32 row = 0; row < rows; row += 4)
      for (u32 half = 0; half < NR; half += 4) {
        u32 at = row * ld + column + half;
        longBlock(high + at, low + at, ld, a + row * stride, stride, b + half, n);
      }
}

void hideLong(const ScoreParams *p, Tile tile, Visibility visibility, f32 *high, f32 *low, u32 ld) {
  for (u32 r = 0; r < tile.rows; r++) {
    f32 *h = high + r * ld, *l = low + r * ld;
    if (visibility == PARTIAL) {
      hideRow(p, h, tile.rowBegin + r, tile.keyBegin, tile.keys, -INFINITY_F);
      hideRow(p, l, tile.rowBegin + r, tile.keyBegin, tile.keys, 0);
    }
    for (u32 c = tile.keys; c < roundUp(tile.keys, 8); c++) h[c] = -INFINITY_F, l[c] = 0;
  }
}
