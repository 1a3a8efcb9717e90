// CUDA on a CPU, one block at a time: each thread of the block is a fiber, and what a warp does together (mma, ldmatrix,
// shuffles) waits until its 32 lanes have come. Slow, and exact enough to find what is wrong in a kernel without a GPU:
//
// - shared memory begins as NaN, and everything outside a block's share of it is protected; so is what lies behind an allocation
// - cp.async copies nothing before its group is waited for
// - a tensor core's sum is rounded toward zero, as the real ones do
// - FA_EMULATE_ORDER=reverse runs warps in the other order: a missing barrier shows as a difference
// - a barrier that part of a block never reaches stops the program
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#include "cuda_runtime.h"

namespace emulate {

using u32 = std::uint32_t;

struct Index {
  unsigned x, y, z;
};

extern Index thread_index;
extern Index block_index;
extern Index grid_size;
extern Index block_size;

std::uint8_t* shared_base();

void launch(unsigned grid, unsigned threads, std::size_t sharedBytes, const std::function<void()>& kernel);

/** Of the block. */
unsigned thread();
/** Something has happened that another thread may wait for. */
void moved();
/** Lets other threads run. */
void yield();
template <class Done>
void wait_until(const Done& done) {
  while (!done()) yield();
}
/** What nobody waits for yet: done when no thread can go on without it, or in reverse order at once. */
void copy_later(std::function<void()> copy);
[[noreturn]] void fail(const char* what);
/** Toward zero. */
float truncate(double x);

void sync_block();
bool sync_block_or(bool value);

/** Words that the lanes of a warp bring, and what they get. */
struct Exchange {
  u32 in[32][10];
  u32 out[32][4];
};
/** Called by each lane of a warp; `compute` runs once, when all have come. */
void collective(const u32* in, int inWords, u32* out, int outWords, void (*compute)(Exchange&));

u32 shuffle(u32 value, int lane);
u32 shuffle_xor(u32 value, int mask);
bool warp_any(bool value);

void cp_async16(u32 to_smem, const void* from_gmem, u32 bytes);
void cp_async_commit();
void cp_async_wait(int pending);
template <int PENDING>
void cp_async_wait() {
  cp_async_wait(PENDING);
}

void load16(u32 (&to)[4], const void* from_gmem);
u32 transpose_8x8(u32 pair);
void ldmatrix_x4(u32 (&to)[4], u32 row_smem);
void ldmatrix_x4_trans(u32 (&to)[4], u32 row_smem);
void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1);
void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1);
void mma_tf32(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1);

}  // namespace emulate

#define __global__
#define __grid_constant__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx ::emulate::thread_index
#define blockIdx ::emulate::block_index
#define gridDim ::emulate::grid_size
#define blockDim ::emulate::block_size
#define __syncthreads ::emulate::sync_block
#define __syncthreads_or ::emulate::sync_block_or
#define __threadfence()

inline bool __any_sync(unsigned, bool value) { return emulate::warp_any(value); }
inline void __syncwarp() { emulate::warp_any(false); }
/** Blocks run one after the other, and threads until they wait. */
inline unsigned atomicAdd(unsigned* at, unsigned by) {
  const unsigned before = *at;
  *at += by;
  return before;
}

inline float __shfl_sync(unsigned, float value, int lane) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits = emulate::shuffle(bits, lane);
  std::memcpy(&value, &bits, 4);
  return value;
}
inline float __shfl_xor_sync(unsigned, float value, int mask) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits = emulate::shuffle_xor(bits, mask);
  std::memcpy(&value, &bits, 4);
  return value;
}
inline std::uint32_t __shfl_xor_sync(unsigned, std::uint32_t value, int mask) {
  return emulate::shuffle_xor(value, mask);
}
inline int __shfl_sync(unsigned, int value, int lane) {
  return static_cast<int>(emulate::shuffle(static_cast<std::uint32_t>(value), lane));
}
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
struct uint4 {
  unsigned x, y, z, w;
};
inline std::uint32_t __umulhi(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::uint32_t>((static_cast<std::uint64_t>(a) * b) >> 32);
}
