// What only sm_90a has, played on a CPU: see kernels/lib/wgmma.cuh, whose functions these are.
//
// - a copy by tensor map lands when no thread can go on without it, or in reverse order at once: what waits for too little, or lets
//   go of memory too early, shows as a difference
// - products are made when they are waited for, by each thread for its own sums
// - threads that all wait for what nobody is about to do stop the program, and so do arrivals beyond those that a barrier counts
#pragma once

#include "cuda.h"
#include "emulate.h"

namespace emulate {

using u64 = std::uint64_t;

/** Of a block of so many threads: barriers that have names are as new. */
void begin_block(unsigned threads);

/** By the names that kernels know them by. */
namespace sm90a {

void barrier_init(u64& barrier, u32 arrivals);
inline void barrier_init_done() {}
void barrier_arrive(u64& barrier);
void barrier_arrive_expecting(u64& barrier, u32 bytes);
void barrier_wait(u64& barrier, u32 parity);

void named_sync(int barrier, int threads);
void named_arrive(int barrier, int threads);
bool named_or(int barrier, int threads, bool value);

void tma_load(void* to_smem, const CUtensorMap& map, int column, int row, int head, int batch, u64& barrier);
inline void tma_prefetch(const CUtensorMap&, int, int, int, int) {}
inline void fence_for_async() {}

template <int N>
void take_registers() {}
template <int N>
void give_registers() {}

inline void wgmma_fence() {}
void wgmma_commit();
void wgmma_wait(int pending);
template <int PENDING>
void wgmma_wait() {
  wgmma_wait(PENDING);
}

u64 descriptor(const void* panel_smem, u32 panelBytes);

}  // namespace sm90a

/** sums [64, columns] (+)= a b, of which this thread has its rows and columns. a: 16 elements of two rows; b: where it lies. */
struct Product {
  float* sums;
  int columns;
  bool add, bIsColumns, isFloat16;
  /** Where a lies, or `inRegisters`, what it is. */
  bool inRegisters;
  u64 a_smem, b_smem;
  u32 a_reg[4];
};
void wgmma(const Product& product);

template <bool FLOAT16, int N>
struct Wgmma {
  static void rows(float (&d)[N / 2], u64 a, u64 b, bool add) {
    wgmma({d, N, add, false, FLOAT16, false, a, b, {}});
  }
  static void columns(float (&d)[N / 2], u32 a0, u32 a1, u32 a2, u32 a3, u64 b) {
    wgmma({d, N, true, true, FLOAT16, true, 0, b, {a0, a1, a2, a3}});
  }
};

/** 0 x + sum for two elements whose bits of an infinity are `exponent`. */
u32 add_zero_times(u32 x, u32 sum, u32 exponent);

}  // namespace emulate
