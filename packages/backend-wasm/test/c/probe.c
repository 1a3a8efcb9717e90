// What the tests need to reach inside the kernels: vector functions over arrays, and the micro-kernel in all its forms.
#include "../../c/micro.h"

EXPORT(exp2Array) void exp2Array(f32 *to, const f32 *from, u32 n) {
  Exp2 e = exp2Setup();
  for (u32 i = 0; i < n; i += 4) store(to + i, exp2v(e, load(from + i)));
}

EXPORT(tanhArray) void tanhArray(f32 *to, f32 *derivatives, const f32 *from, u32 n) {
  Tanh t = tanhSetup();
  for (u32 i = 0; i < n; i += 4) {
    vec derivative;
    store(to + i, tanhv(t, load(from + i), &derivative));
    store(derivatives + i, derivative);
  }
}

EXPORT(logOf) f64 logOfProbe(f64 x) { return logOf(x); }
EXPORT(expOf) f64 expOfProbe(f64 x) { return expOf(x); }

DEFINE_GEMM(setRows, ROWS, SET)
DEFINE_GEMM(setScaledRows, ROWS, SET_SCALED)
DEFINE_GEMM(addRows, ROWS, ADD)
DEFINE_GEMM(scaleAddRows, ROWS, SCALE_ADD)
DEFINE_GEMM(setColumns, TRANSPOSED, SET)
DEFINE_GEMM(setScaledColumns, TRANSPOSED, SET_SCALED)
DEFINE_GEMM(addColumns, TRANSPOSED, ADD)
DEFINE_GEMM(scaleAddColumns, TRANSPOSED, SCALE_ADD)

// order: 0 rows, 1 transposed; update: 0 set, 1 set scaled, 2 add, 3 scale and add
EXPORT(product) void product(u32 blockRows, u32 order, u32 update, f32 *c, u32 ldc, u32 rows, u32 columns, const f32 *a, u32 stride,
                             const f32 *b, u32 n, const f32 *scale) {
  void (*forms[2][4])(u32, f32 *, u32, u32, u32, const f32 *, u32, const f32 *, u32, u32, const f32 *) = {
      {setRows, setScaledRows, addRows, scaleAddRows}, {setColumns, setScaledColumns, addColumns, scaleAddColumns}};
  forms[order][update](blockRows, c, ldc, rows, columns, a, stride, b, n * NR, n, scale);
}
