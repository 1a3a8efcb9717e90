// Vector helpers: four f32 lanes.
#pragma once
#include "base.h"

INLINE vec splat(f32 x) { return wasm_f32x4_splat(x); }
INLINE vec load(const f32 *p) { return wasm_v128_load(p); }
INLINE vec loadSplat(const f32 *p) { return wasm_v128_load32_splat(p); }
INLINE void store(f32 *p, vec v) { wasm_v128_store(p, v); }
INLINE vec add(vec a, vec b) { return wasm_f32x4_add(a, b); }
INLINE vec sub(vec a, vec b) { return wasm_f32x4_sub(a, b); }
INLINE vec mul(vec a, vec b) { return wasm_f32x4_mul(a, b); }
INLINE vec select(vec mask, vec yes, vec no) { return wasm_v128_bitselect(yes, no, mask); }

// a * b + c; one rounding in the relaxed build where the machine has FMA, two in the plain one.
INLINE vec madd(vec a, vec b, vec c) {
#ifdef __wasm_relaxed_simd__
  return wasm_f32x4_relaxed_madd(a, b, c);
#else
  return wasm_f32x4_add(wasm_f32x4_mul(a, b), c);
#endif
}

// max(a, b); a NaN in b is passed over (the exponential finds it again), a NaN in a stays.
INLINE vec maxSkipNaN(vec a, vec b) { return wasm_f32x4_pmax(a, b); }

INLINE f32 lane(vec v, int i) { return ((f32 __attribute__((vector_size(16))))v)[i]; }
INLINE f32 sumLanes(vec v) {
  vec pair = add(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
  return lane(pair, 0) + lane(pair, 1);
}

// Rows become columns: four vectors of one row each, in place.
INLINE void transpose4(vec *a, vec *b, vec *c, vec *d) {
  vec ab = wasm_i32x4_shuffle(*a, *b, 0, 4, 1, 5), cd = wasm_i32x4_shuffle(*c, *d, 0, 4, 1, 5);
  vec ab2 = wasm_i32x4_shuffle(*a, *b, 2, 6, 3, 7), cd2 = wasm_i32x4_shuffle(*c, *d, 2, 6, 3, 7);
  *a = wasm_i64x2_shuffle(ab, cd, 0, 2);
  *b = wasm_i64x2_shuffle(ab, cd, 1, 3);
  *c = wasm_i64x2_shuffle(ab2, cd2, 0, 2);
  *d = wasm_i64x2_shuffle(ab2, cd2, 1, 3);
}

#define LOG2E 1.4426950408889634f

// A constant in a register. One that V8 can see it makes again in every round of a loop, three instructions each time.
INLINE vec held(f32 x) {
  __asm__("" : "+r"(x));
  return splat(x);
}

// What exp2v needs, set up outside the loop: its polynomial (times 2^26) and what splits x.
typedef struct {
  vec low, round, c0, c1, c2, c3, c4, c5;
} Exp2;

INLINE Exp2 exp2Setup(void) {
  return (Exp2){
      .low = held(-101.0f),
      .round = held(12582912.0f + 101.0f), // 1.5 * 2^23: adding it rounds to the nearest integer, in the low mantissa bits
      .c0 = held(0x1p26f),
      .c1 = held(0x1p26f * 0.6931470036506653f),
      .c2 = held(0x1p26f * 0.24022242426872253f),
      .c3 = held(0x1p26f * 0.05550733581185341f),
      .c4 = held(0x1p26f * 0.009671512991189957f),
      .c5 = held(0x1p26f * 0.001326472731307149f),
  };
}

// 2^x for x < 127, relative error below 2e-7, exactly 1 at 0; from -101 down it is 0. Wasm cannot flush denormals to zero
// and one denormal costs as much as a hundred products; so the exponent is counted from -101, whose power of two has the
// bits of 0, and the polynomial makes up for it. NaN stays NaN.
INLINE vec exp2v(Exp2 e, vec x) {
  x = maxSkipNaN(x, e.low);
  vec shifted = add(x, e.round);            // low bits: round(x) + 101
  vec f = add(x, sub(e.round, shifted));    // in [-0.5, 0.5]
  vec scale = wasm_i32x4_shl(shifted, 23);  // 2^(round(x) - 26), or 0
  vec p = madd(e.c5, f, e.c4);
  p = madd(p, f, e.c3);
  p = madd(p, f, e.c2);
  p = madd(p, f, e.c1);
  p = madd(p, f, e.c0);
  return mul(p, scale);
}

// tanh(x) and, if asked for, its derivative 1 - tanh^2 with full relative accuracy also where tanh is almost 1.
// Near 0 an odd polynomial keeps the relative accuracy that 1 - 2e / (1 + e) would cancel away.
typedef struct {
  Exp2 exp2;
  vec one, rate, limit, c3, c5, c7, c9, c11;
} Tanh;

INLINE Tanh tanhSetup(void) {
  return (Tanh){
      .exp2 = exp2Setup(),
      .one = held(1.0f),
      .rate = held(-2.0f * LOG2E),
      .limit = held(0.55f),
      .c3 = held(-0.33333326605906294f),
      .c5 = held(0.1333282882091646f),
      .c7 = held(-0.05387393194524592f),
      .c9 = held(0.021150297818960336f),
      .c11 = held(-0.0063748553551908034f),
  };
}

INLINE vec tanhv(Tanh t, vec x, vec *derivative) {
  vec size = wasm_f32x4_abs(x);
  vec e = exp2v(t.exp2, mul(size, t.rate));
  vec inverse = wasm_f32x4_div(t.one, add(t.one, e));
  vec e2 = add(e, e);
  vec far = wasm_v128_or(sub(t.one, mul(e2, inverse)), wasm_v128_xor(x, size)); // with the sign of x
  vec xx = mul(x, x);
  vec p = madd(t.c11, xx, t.c9);
  p = madd(p, xx, t.c7);
  p = madd(p, xx, t.c5);
  p = madd(p, xx, t.c3);
  vec near = madd(mul(p, xx), x, x);
  if (derivative) *derivative = mul(mul(add(e2, e2), inverse), inverse);
  return select(wasm_f32x4_lt(size, t.limit), near, far);
}

// ln(x) of a positive x (0 gives -Infinity, Infinity and NaN themselves), relative error below 1e-14. Once a row.
INLINE f64 logOf(f64 x) {
  u64 bits;
  if (!(x > 0)) return x == 0 ? -__builtin_inf() : __builtin_nan("");
  if (x == __builtin_inf()) return x;
  i32 exponent = 0;
  if (x < 0x1p-1022) x *= 0x1p54, exponent = -54;
  __builtin_memcpy(&bits, &x, 8);
  exponent += (i32)(bits >> 52) - 1023;
  bits = (bits & 0xfffffffffffffull) | 0x3ff0000000000000ull;
  __builtin_memcpy(&x, &bits, 8); // in [1, 2)
  if (x > 1.4142135623730951) x *= 0.5, exponent++;
  f64 t = (x - 1) / (x + 1), tt = t * t, sum = 0; // ln x = 2 atanh t, |t| < 0.172
  for (i32 n = 19; n >= 1; n -= 2) sum = sum * tt + 1.0 / n;
  return exponent * 0.6931471805599453 + 2 * t * sum;
}

// exp(x) in double, for one value a row; 0 below -700.
INLINE f64 expOf(f64 x) {
  if (x != x) return x;
  if (x < -700) return 0;
  if (x > 709) return __builtin_inf();
  f64 n = __builtin_floor(x * 1.4426950408889634 + 0.5);
  f64 f = (x - n * 0.693145751953125) - n * 1.42860682030941723e-6; // ln 2 in two parts: n * the first is exact
  f64 sum = 1;
  for (i32 i = 13; i >= 1; i--) sum = 1 + sum * f / i;
  u64 bits = (u64)((i32)n + 1023) << 52;
  f64 scale;
  __builtin_memcpy(&scale, &bits, 8);
  return sum * scale;
}
