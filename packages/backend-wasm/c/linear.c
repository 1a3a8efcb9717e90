// y [M][N] = x [M][K] weight [N][K]^T + bias, the columns of y split over several arrays, and its gradients:
//   dx [M][K] = dy weight        dweight [N][K] = dy^T x        dbias [N] = column sums of dy
// Three products of one blocked form C [rows][columns] = A [rows][depth] B [depth][columns], Mc x Nc x Kc at a time. A call
// computes rows [rowBegin, rowEnd) and columns [columnBegin, columnEnd) of its result: how a result is cut changes no bit.
#include "micro.h"
#include "pack.h"
#include "params.h"

DEFINE_GEMM(setRows, ROWS, SET)
DEFINE_GEMM(addRows, ROWS, ADD)
DEFINE_GEMM(setColumns, TRANSPOSED, SET)
DEFINE_GEMM(addColumns, TRANSPOSED, ADD)

// Columns [begin, begin + n) of one row of a matrix in parts.
static void readParts(const LinearParams *p, f32 *to, u32 row, u32 begin, u32 n) {
  for (u32 part = 0; part < p->parts && n; part++) {
    u32 width = p->y[part].width;
    if (begin >= width) {
      begin -= width;
      continue;
    }
    u32 count = minU(n, width - begin);
    toF32(to, elementAt(p->y[part].data, p->dtype, row * width + begin), count, p->dtype);
    to += count, n -= count, begin = 0;
  }
}

static void writeParts(const LinearParams *p, const f32 *from, u32 row, u32 begin, u32 n) {
  for (u32 part = 0; part < p->parts && n; part++) {
    u32 width = p->y[part].width;
    if (begin >= width) {
      begin -= width;
      continue;
    }
    u32 count = minU(n, width - begin);
    fromF32(elementAtW(p->y[part].data, p->dtype, row * width + begin), from, count, p->dtype);
    from += count, n -= count, begin = 0;
  }
}

static Matrix columnsOf(const void *data, u32 dtype, u32 rowStride, u32 column) {
  return (Matrix){elementAt(data, dtype, column), dtype, rowStride};
}

HOT static void addRow(f32 *row, const f32 *bias, u32 n8) {
  for (u32 c = 0; c < n8; c += 4) store(row + c, add(load(row + c), load(bias + c)));
}

EXPORT(faLinear) void faLinear(const LinearParams *p) {
  for (u32 column = p->columnBegin; column < p->columnEnd; column += p->Nc) {
    u32 columns = minU(p->Nc, p->columnEnd - column), columns8 = roundUp(columns, 8);
    // bBlock: for each depth block, [columns8 / 8][depth][8]
    for (u32 k = 0; k < p->K; k += p->Kc)
      packTransposed(p->bBlock + k * columns8, columnsOf(p->weight, p->dtype, p->K, k), column, columns, minU(p->Kc, p->K - k));
    fillZero(p->line, columns8 * 4);
    if (p->bias) toF32(p->line, elementAt(p->bias, p->dtype, column), columns, p->dtype);
    for (u32 row = p->rowBegin; row < p->rowEnd; row += p->Mc) {
      u32 rows = minU(p->Mc, p->rowEnd - row);
      if (p->K == 0) fillZero(p->cBlock, rows * columns8 * 4);
      for (u32 k = 0; k < p->K; k += p->Kc) {
        u32 depth = minU(p->Kc, p->K - k), ld = roundUp(depth, 8);
        packRows(p->aBlock, ld, columnsOf(p->x, p->dtype, p->K, k), row, rows, depth);
        (k ? addRows : setRows)(p->blockRows, p->cBlock, columns8, rows, columns8, p->aBlock, ld, p->bBlock + k * columns8, depth * 8, depth, 0);
      }
      for (u32 r = 0; r < rows; r++) {
        f32 *c = p->cBlock + r * columns8;
        addRow(c, p->line, columns8);
        writeParts(p, c, row + r, column, columns);
      }
    }
  }
}

// dx [M][K]: depth N
EXPORT(faLinearGradX) void faLinearGradX(const LinearParams *p) {
  for (u32 column = p->columnBegin; column < p->columnEnd; column += p->Nc) {
    u32 columns = minU(p->Nc, p->columnEnd - column), columns8 = roundUp(columns, 8);
    for (u32 n = 0; n < p->N; n += p->Kc) {
      u32 depth = minU(p->Kc, p->N - n);
      packPanels(p->bBlock + n * columns8, depth * 8, columnsOf(p->weight, p->dtype, p->K, column), n, depth, columns);
    }
    for (u32 row = p->rowBegin; row < p->rowEnd; row += p->Mc) {
      u32 rows = minU(p->Mc, p->rowEnd - row);
      for (u32 n = 0; n < p->N; n += p->Kc) {
        u32 depth = minU(p->Kc, p->N - n);
        for (u32 r = 0; r < rows; r++) readParts(p, p->aBlock + r * depth, row + r, n, depth);
        (n ? addRows : setRows)(p->blockRows, p->cBlock, columns8, rows, columns8, p->aBlock, depth, p->bBlock + n * columns8, depth * 8, depth, 0);
      }
      for (u32 r = 0; r < rows; r++)
        fromF32(elementAtW(p->dx, p->dtype, (row + r) * p->K + column), p->cBlock + r * columns8, columns, p->dtype);
    }
  }
}

// dweight [N][K]: depth M, A = dy^T as it lies
EXPORT(faLinearGradWeight) void faLinearGradWeight(const LinearParams *p) {
  for (u32 column = p->columnBegin; column < p->columnEnd; column += p->Nc) {
    u32 columns = minU(p->Nc, p->columnEnd - column), columns8 = roundUp(columns, 8);
    for (u32 n = p->rowBegin; n < p->rowEnd; n += p->Mc) {
      u32 rows = minU(p->Mc, p->rowEnd - n), ld = roundUp(rows, ROW_UNIT);
      if (p->M == 0) fillZero(p->cBlock, rows * columns8 * 4);
      for (u32 m = 0; m < p->M; m += p->Kc) {
        u32 depth = minU(p->Kc, p->M - m);
        packPanels(p->bBlock, depth * 8, columnsOf(p->x, p->dtype, p->K, column), m, depth, columns);
        for (u32 r = 0; r < depth; r++) readParts(p, p->aBlock + r * ld, m + r, n, rows);
        (m ? addColumns : setColumns)(p->blockRows, p->cBlock, columns8, rows, columns8, p->aBlock, ld, p->bBlock, depth * 8, depth, 0);
      }
      for (u32 r = 0; r < rows; r++)
        fromF32(elementAtW(p->dweight, p->dtype, (n + r) * p->K + column), p->cBlock + r * columns8, columns, p->dtype);
    }
  }
}

HOT static void addDouble(f64 *sums, const f32 *row, u32 n) {
  for (u32 c = 0; c < n; c++) sums[c] += (f64)row[c];
}

// dbias [N]: one row
EXPORT(faLinearGradBias) void faLinearGradBias(const LinearParams *p) {
  u32 columns = p->columnEnd - p->columnBegin;
  fillZero(p->sums, columns * 8);
  for (u32 m = 0; m < p->M; m++) {
    readParts(p, p->line, m, p->columnBegin, columns);
    addDouble(p->sums, p->line, columns);
  }
  for (u32 n = 0; n < columns; n++) p->line[n] = (f32)p->sums[n];
  fromF32(elementAtW(p->dbias, p->dtype, p->columnBegin), p->line, columns, p->dtype);
}
