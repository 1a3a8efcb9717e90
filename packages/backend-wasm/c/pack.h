// Packing: a matrix in any dtype and row stride becomes the f32 operand that the micro-kernel reads. The source has `rows`
// rows of `n` contiguous elements, `rowStride` elements apart.
#pragma once
#include "dtype.h"
#include "micro.h"

#define MAX_PACK_COLUMNS 512 // the longest row that is packed in one piece

typedef struct {
  const void *data;
  u32 dtype, rowStride;
} Matrix;

// to [rows][ld]; columns n to ld are 0.
void packRows(f32 *to, u32 ld, Matrix from, u32 rowBegin, u32 rows, u32 n);

// Panels over rows, to [ceil(rows / 8)][n][8]: the source transposed. Missing rows of the last panel are 0.
void packTransposed(f32 *to, Matrix from, u32 rowBegin, u32 rows, u32 n);

// Panels over columns, to [ceil(n / 8)], panelStride apart, of [rows][8]. Missing columns are 0.
// Returns whether every element is finite.
u32 packPanels(f32 *to, u32 panelStride, Matrix from, u32 rowBegin, u32 rows, u32 n);

u32 rowsAreFinite(const f32 *from, u32 ld, u32 rows, u32 n);
