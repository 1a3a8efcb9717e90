// Element types and their conversion to and from f32: round to nearest even, subnormals exact, NaN stays NaN.
#pragma once
#include "simd.h"

typedef enum { FLOAT32, FLOAT16, BFLOAT16, FLOAT8E4M3 } Dtype; // the order of src/abi.ts

INLINE u32 dtypeBytes(u32 dtype) { return dtype == FLOAT32 ? 4 : dtype == FLOAT8E4M3 ? 1 : 2; }
INLINE const void *elementAt(const void *base, u32 dtype, u32 index) { return (const u8 *)base + index * dtypeBytes(dtype); }
INLINE void *elementAtW(void *base, u32 dtype, u32 index) { return (u8 *)base + index * dtypeBytes(dtype); }

#define I32(x) wasm_i32x4_splat((i32)(x))
INLINE vec shl(vec v, u32 n) { return wasm_i32x4_shl(v, n); }
INLINE vec shr(vec v, u32 n) { return wasm_u32x4_shr(v, n); }
INLINE vec addI(vec a, vec b) { return wasm_i32x4_add(a, b); }
INLINE vec subI(vec a, vec b) { return wasm_i32x4_sub(a, b); }
INLINE vec and(vec a, vec b) { return wasm_v128_and(a, b); }
INLINE vec or(vec a, vec b) { return wasm_v128_or(a, b); }
INLINE vec ltI(vec a, vec b) { return wasm_i32x4_lt(a, b); }
// bits >> n rounded to nearest even
INLINE vec shrEven(vec bits, u32 n) { return shr(addI(bits, addI(I32((1u << (n - 1)) - 1), and(shr(bits, n), I32(1)))), n); }

// The narrow types sit in 32-bit lanes.
INLINE vec fromF16(vec h) {
  vec size = and(h, I32(0x7fff)), wide = shl(size, 13);
  vec normal = addI(wide, I32(112 << 23));
  vec subnormal = sub(or(wide, I32(113 << 23)), I32(113 << 23)); // 2^-14 (1 + m) - 2^-14: exact and no f32 denormal
  vec value = select(ltI(size, I32(0x0400)), subnormal, select(ltI(size, I32(0x7c00)), normal, or(wide, I32(0x7f800000))));
  return or(value, shl(and(h, I32(0x8000)), 16));
}
INLINE vec toF16(vec x) {
  vec size = and(x, I32(0x7fffffff)), sign = shr(and(x, I32(0x80000000)), 16);
  vec normal = subI(shrEven(size, 13), I32(112 << 10));
  vec subnormal = subI(add(size, splat(0.5f)), I32(0x3f000000)); // the unit of 0.5 is 2^-24, that of a subnormal half
  vec special = select(ltI(I32(0x7f800000), size), I32(0x7e00), I32(0x7c00));
  vec value = select(ltI(size, I32(113 << 23)), subnormal, select(ltI(size, I32(0x477ff000)), normal, special));
  return or(value, sign);
}
INLINE vec fromBF16(vec h) { return shl(h, 16); }
INLINE vec toBF16(vec x) {
  vec nan = ltI(I32(0x7f800000), and(x, I32(0x7fffffff)));
  return select(nan, or(shr(and(x, I32(0x80000000)), 16), I32(0x7fc0)), shrEven(x, 16));
}
// e4m3fn: bias 7, largest 448, no infinity, 0x7f is NaN; what is too large saturates.
INLINE vec fromF8(vec h) {
  vec size = and(h, I32(0x7f)), wide = shl(size, 20);
  vec normal = addI(wide, I32(120 << 23));
  vec subnormal = sub(or(wide, I32(121 << 23)), I32(121 << 23));
  vec value = select(ltI(size, I32(0x08)), subnormal, select(ltI(size, I32(0x7f)), normal, I32(0x7fc00000)));
  return or(value, shl(and(h, I32(0x80)), 24));
}
INLINE vec toF8(vec x) {
  vec size = and(x, I32(0x7fffffff)), sign = shr(and(x, I32(0x80000000)), 24);
  vec normal = subI(shrEven(size, 20), I32(120 << 3));
  vec subnormal = subI(add(size, splat(16384.0f)), I32(0x46800000)); // the unit of 2^14 is 2^-9
  vec special = select(ltI(I32(0x7f800000), size), I32(0x7f), I32(0x7e));
  vec value = select(ltI(size, I32(121 << 23)), subnormal, select(ltI(size, I32(0x43e00000)), normal, special));
  return or(value, sign);
}

// Four elements from p; p has four.
INLINE vec load4(const void *p, u32 dtype) {
  switch (dtype) {
    case FLOAT32: return wasm_v128_load(p);
    case FLOAT16: return fromF16(wasm_u32x4_load16x4(p));
    case BFLOAT16: return fromBF16(wasm_u32x4_load16x4(p));
    default: return fromF8(wasm_u32x4_extend_low_u16x8(wasm_u16x8_extend_low_u8x16(wasm_v128_load32_zero(p))));
  }
}
INLINE void store4(void *p, vec x, u32 dtype) {
  switch (dtype) {
    case FLOAT32: wasm_v128_store(p, x); break;
    case FLOAT16: x = toF16(x), wasm_v128_store64_lane(p, wasm_u16x8_narrow_i32x4(x, x), 0); break;
    case BFLOAT16: x = toBF16(x), wasm_v128_store64_lane(p, wasm_u16x8_narrow_i32x4(x, x), 0); break;
    default: {
      x = toF8(x);
      vec words = wasm_u16x8_narrow_i32x4(x, x);
      wasm_v128_store32_lane(p, wasm_u8x16_narrow_i16x8(words, words), 0);
    }
  }
}

// n consecutive elements to f32 and back. The last few pass through a buffer: one conversion code, no read past the end.
void toF32(f32 *to, const void *from, u32 n, u32 dtype);
void fromF32(void *to, const f32 *from, u32 n, u32 dtype);
