// The one inner loop of this back end.
//
//   C [MR x 8]  =  AB, scale AB, C + AB or rowScale C + AB   A [MR x n]: element (r, k) at a[r * stride + k] (ROWS)
//                                                                                  or at a[k * stride + r] (TRANSPOSED)
//                                                            B [n x 8]: a packed panel, the 8 columns of one k together
//
// AB stays in 2 MR registers (x64 has 16: 6 x 8 leaves one for A and two for B) and meets C at the end, so rounding errors
// grow with the number of tiles and not with the number of terms. Operands are padded to whole panels, so there are no
// tails: a padded row of A or column of B changes only a padded row or column of C.
#pragma once
#include "simd.h"

#define NR 8 // columns of a panel: two vectors

// Rows of a register block, MR, are 4 or 6, and which is faster depends on engine, build and machine (NOTES.md): both are
// compiled, and `blockRows` says which. An element's sum runs over k alone, so it changes no bit.
#define ROW_UNIT 12 // whole blocks of either
INLINE u32 rowsOfBlock(u32 blockRows) { return blockRows == 6 ? 6 : 4; } // a field that was left out is 0

typedef enum { SET, SET_SCALED, ADD, SCALE_ADD } Update; // C = AB, scale[0] AB, C + AB, scale[r] C + AB
typedef enum { ROWS, TRANSPOSED } Order;

INLINE void microKernel(const u32 MR, const Order order, const Update update, f32 *restrict c, u32 ldc, const f32 *restrict a, u32 stride,
                        const f32 *restrict b, u32 n, const f32 *restrict scale) {
  vec acc[6][2];
#pragma unroll
  for (u32 r = 0; r < MR; r++) acc[r][0] = acc[r][1] = splat(0);
  for (u32 k = 0; k < n; k++) {
    vec b0 = load(b), b1 = load(b + 4);
#pragma unroll
    for (u32 r = 0; r < MR; r++) {
      vec x = loadSplat(order == ROWS ? a + r * stride : a + r);
      acc[r][0] = madd(x, b0, acc[r][0]);
      acc[r][1] = madd(x, b1, acc[r][1]);
    }
    a += order == ROWS ? 1 : stride;
    b += NR;
  }
#pragma unroll
  for (u32 r = 0; r < MR; r++, c += ldc) {
    if (update == SET_SCALED) {
      acc[r][0] = mul(loadSplat(scale), acc[r][0]);
      acc[r][1] = mul(loadSplat(scale), acc[r][1]);
    } else if (update == ADD) {
      acc[r][0] = add(acc[r][0], load(c));
      acc[r][1] = add(acc[r][1], load(c + 4));
    } else if (update == SCALE_ADD) {
      vec factor = loadSplat(scale + r);
      acc[r][0] = madd(factor, load(c), acc[r][0]);
      acc[r][1] = madd(factor, load(c + 4), acc[r][1]);
    }
    store(c, acc[r][0]);
    store(c + 4, acc[r][1]);
  }
}

// Defines name(): one block of MR rows of C by `columns`, rounded up to 8, beside B's panels, panelStride apart.
#define DEFINE_ROWS(name, order, update)                                                                               \
  DEFINE_ROWS_OF(name##Four, 4, order, update)                                                                         \
  DEFINE_ROWS_OF(name##Six, 6, order, update)                                                                          \
  INLINE void name(u32 blockRows, f32 *c, u32 ldc, u32 columns, const f32 *a, u32 stride, const f32 *b,                \
                   u32 panelStride, u32 n, const f32 *scale) {                                                         \
    if (blockRows == 6) name##Six(c, ldc, columns, a, stride, b, panelStride, n, scale);                               \
    else name##Four(c, ldc, columns, a, stride, b, panelStride, n, scale);                                             \
  }
#define DEFINE_ROWS_OF(name, MR, order, update)                                                                        \
  HOT static void name(f32 *c, u32 ldc, u32 columns, const f32 *a, u32 stride, const f32 *b, u32 panelStride, u32 n,   \
                       const f32 *scale) {                                                                             \
    for (u32 column = 0; column < columns; column += NR, b += panelStride)                                             \
      microKernel(MR, order, update, c + column, ldc, a, stride, b, n, scale);                                         \
  }

// Defines name(): C [rows x columns] in register blocks, rows rounded up to MR and columns to 8. Panel p of B starts at
// b + p * panelStride and stays in the first-level cache while all rows of A pass by.
#define DEFINE_GEMM(name, order, update)                                                                               \
  DEFINE_BLOCK_OF(name##Four, 4, order, update)                                                                        \
  DEFINE_BLOCK_OF(name##Six, 6, order, update)                                                                         \
  HOT static void name(u32 blockRows, f32 *c, u32 ldc, u32 rows, u32 columns, const f32 *a, u32 stride, const f32 *b,  \
                       u32 panelStride, u32 n, const f32 *scale) {                                                     \
    for (u32 column = 0; column < columns; column += NR, b += panelStride)                                             \
      for (u32 row = 0; row < rows; row += rowsOfBlock(blockRows)) {                                                                \
        f32 *block = c + row * ldc + column;                                                                           \
        const f32 *from = a + row * (order == ROWS ? stride : 1), *factors = update == SCALE_ADD ? scale + row : scale; \
        if (blockRows == 6) name##Six(block, ldc, from, stride, b, n, factors);                                        \
        else name##Four(block, ldc, from, stride, b, n, factors);                                                      \
      }                                                                                                                \
  }
#define DEFINE_BLOCK_OF(name, MR, order, update)                                                                       \
  HOT static void name(f32 *c, u32 ldc, const f32 *a, u32 stride, const f32 *b, u32 n, const f32 *scale) {             \
    microKernel(MR, order, update, c, ldc, a, stride, b, n, scale);                                                    \
  }
