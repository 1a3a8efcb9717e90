// Types and memory helpers of the freestanding build: wasm32, no libc.
#pragma once
#include <wasm_simd128.h>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef short i16;
typedef int i32;
typedef float f32;
typedef double f64;
typedef v128_t vec; // four f32 (or the integers named in the intrinsic)

#define EXPORT(name) __attribute__((export_name(#name), noinline)) // called by JavaScript
#define HOT __attribute__((noinline)) // V8 replaces a function only between calls: hot loops get a function each
#define INLINE static inline __attribute__((always_inline))

#define INFINITY_F __builtin_inff()
#define NAN_F __builtin_nanf("")

INLINE u32 ceilDiv(u32 n, u32 unit) { return n / unit + (n % unit != 0); }
INLINE u32 roundUp(u32 n, u32 unit) { return ceilDiv(n, unit) * unit; }
INLINE u32 minU(u32 a, u32 b) { return a < b ? a : b; }
INLINE u32 maxU(u32 a, u32 b) { return a > b ? a : b; }
INLINE i32 minI(i32 a, i32 b) { return a < b ? a : b; }
INLINE i32 maxI(i32 a, i32 b) { return a > b ? a : b; }

// The wasm instructions for these call C++ in V8, 20 to 50 ns each: for large blocks, and for what is rare.
INLINE void fillZero(void *to, u32 bytes) {
  if (bytes) __builtin_memset(to, 0, bytes);
}
INLINE void copyBytes(void *to, const void *from, u32 bytes) { __builtin_memcpy(to, from, bytes); }
