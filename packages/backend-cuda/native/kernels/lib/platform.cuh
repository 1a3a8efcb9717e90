// What kernels are written in: CUDA, or plain C++ that plays it on a CPU (emulate/), where the same sources are tested
// without a GPU. Everything that differs between the two is in this file and emulate/.
#pragma once

#include <cstdint>

#ifdef FA_EMULATED
#include "../../emulate/emulate.h"
#else
#include <cuda_runtime.h>
#endif

namespace fa {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
/** Offsets in elements: tensors may be larger than 2^31. */
using i64 = std::int64_t;

constexpr float NEGATIVE_INFINITY = -__builtin_huge_valf();
constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.69314718055994531f;

#ifdef FA_EMULATED

#define FA_DEVICE inline
#define FA_ANYWHERE inline
#define FA_LAUNCH(kernel, grid, threads, sharedBytes, stream, ...) \
  (void)(stream), emulate::launch(grid, threads, sharedBytes, [&] { kernel(__VA_ARGS__); })

using emulate::cp_async16;
using emulate::cp_async_commit;
using emulate::cp_async_wait;
using emulate::ldmatrix_x4;
using emulate::ldmatrix_x4_trans;
using emulate::mma_bf16;
using emulate::mma_f16;
using emulate::mma_tf32;
using emulate::load16;
using emulate::shared_base;
using emulate::transpose_8x8;

/** a b, rounded: never one half of a fused multiply-add. */
FA_DEVICE float product(float a, float b) { return a * b; }
/** Memory that another multiprocessor may have written. */
FA_DEVICE float load_fresh(const float* from_gmem) { return *from_gmem; }

#else

#define FA_DEVICE __device__ __forceinline__
#define FA_ANYWHERE __host__ __device__ __forceinline__
#define FA_LAUNCH(kernel, grid, threads, sharedBytes, stream, ...) \
  (kernel)<<<grid, threads, sharedBytes, stream>>>(__VA_ARGS__)

/** Dynamic shared memory of the block. */
FA_DEVICE u8* shared_base() {
  extern __shared__ __align__(128) u8 shared_smem[];
  return shared_smem;
}

FA_DEVICE u32 shared_address(u32 offset) { return static_cast<u32>(__cvta_generic_to_shared(shared_base())) + offset; }

/** Copies 16 bytes to shared memory behind the back of the thread; zeros instead of what `bytes` does not cover. */
FA_DEVICE void cp_async16(u32 to_smem, const void* from_gmem, u32 bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to_smem)), "l"(from_gmem), "r"(bytes)
               : "memory");
}
FA_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/** Waits until at most PENDING of this thread's groups are under way. */
template <int PENDING>
FA_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/** Four 8 x 8 matrices of 16 bits; lane l gives the address of row l % 8 of matrix l / 8. */
FA_DEVICE void ldmatrix_x4(u32 (&to)[4], u32 row_smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row_smem))
               : "memory");
}
FA_DEVICE void ldmatrix_x4_trans(u32 (&to)[4], u32 row_smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row_smem))
               : "memory");
}

/** Two numbers of 16 bits of an 8 x 8 matrix, columns 2 t and 2 t + 1 of row g (lane = 4 g + t), become those of the transposed one. */
FA_DEVICE u32 transpose_8x8(u32 pair) {
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(pair));
  return pair;
}

/** 16 bytes that nobody writes, of rows that are read on. */
FA_DEVICE void load16(u32 (&to)[4], const void* from_gmem) {
  asm volatile("ld.global.nc.L2::256B.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "l"(from_gmem));
}

// d [16, 8] += a [16, 16 or 8] b [16 or 8, 8]; fragments as the PTX manual draws them.
FA_DEVICE void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
FA_DEVICE void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
FA_DEVICE void mma_tf32(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

FA_DEVICE float product(float a, float b) { return __fmul_rn(a, b); }
FA_DEVICE float load_fresh(const float* from_gmem) { return __ldcg(from_gmem); }

FA_DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/** One instruction: results below 2^-126 are 0. */
FA_DEVICE float exp2_flushed(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#endif

#ifdef FA_EMULATED
FA_DEVICE float exp2_approx(float x) { return exp2f(x); }
FA_DEVICE float exp2_flushed(float x) { return x < -126.f ? 0.f : exp2f(x); }
#endif

FA_DEVICE u32 float_bits(float x) {
  u32 bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}
FA_DEVICE float bits_float(u32 bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
FA_DEVICE float quiet_nan() { return bits_float(0x7fffffffu); }
FA_DEVICE bool is_finite(float x) { return (float_bits(x) & 0x7f800000u) != 0x7f800000u; }

FA_DEVICE u8* shared_at(u32 offset) { return shared_base() + offset; }
FA_DEVICE int lane_id() { return threadIdx.x & 31; }
FA_DEVICE int warp_id() { return threadIdx.x >> 5; }

// A team works on a tile together: a warp (THREADS = 32), or the block.

/** Of the thread in its team. */
template <int THREADS>
FA_DEVICE int team_rank() {
  return THREADS == 32 ? lane_id() : static_cast<int>(threadIdx.x);
}
template <int THREADS>
FA_DEVICE void team_sync() {
  if constexpr (THREADS == 32) __syncwarp();
  else __syncthreads();
}
template <int THREADS>
FA_DEVICE bool team_or(bool value) {
  if constexpr (THREADS == 32) return __any_sync(~0u, value);
  else return __syncthreads_or(value);
}

template <class T>
FA_ANYWHERE constexpr T least(T a, T b) {
  return a < b ? a : b;
}
template <class T>
FA_ANYWHERE constexpr T most(T a, T b) {
  return a > b ? a : b;
}

}  // namespace fa
