// What this machine can do at best, for the percentages: arithmetic in registers only, and reading only.
#include "simd.h"

#define CHAINS 12 // independent accumulators: more than latency times throughput of any machine we know

// rounds * 12 * 4 multiply-adds in registers. The result keeps the loop alive.
EXPORT(faRoofArithmetic) f32 faRoofArithmetic(u32 rounds) {
  vec acc[CHAINS], x = splat(0.999f), y = splat(0.001f), sum = splat(0);
#pragma unroll
  for (u32 c = 0; c < CHAINS; c++) acc[c] = splat((f32)c);
  for (u32 r = 0; r < rounds; r++) {
#pragma unroll
    for (u32 c = 0; c < CHAINS; c++) acc[c] = madd(acc[c], x, y);
  }
#pragma unroll
  for (u32 c = 0; c < CHAINS; c++) sum = add(sum, acc[c]);
  return sumLanes(sum);
}

// Reads bytes (a multiple of 64) once.
EXPORT(faRoofRead) u32 faRoofRead(const u32 *from, u32 bytes) {
  vec sum[4] = {splat(0), splat(0), splat(0), splat(0)};
  for (u32 i = 0; i < bytes / 4; i += 16) {
    sum[0] = wasm_i32x4_add(sum[0], wasm_v128_load(from + i));
    sum[1] = wasm_i32x4_add(sum[1], wasm_v128_load(from + i + 4));
    sum[2] = wasm_i32x4_add(sum[2], wasm_v128_load(from + i + 8));
    sum[3] = wasm_i32x4_add(sum[3], wasm_v128_load(from + i + 12));
  }
  vec all = wasm_i32x4_add(wasm_i32x4_add(sum[0], sum[1]), wasm_i32x4_add(sum[2], sum[3]));
  return wasm_u32x4_extract_lane(all, 0) + wasm_u32x4_extract_lane(all, 1) + wasm_u32x4_extract_lane(all, 2) + wasm_u32x4_extract_lane(all, 3);
}
