// What starting any kernel takes, on the host.
#pragma once

#include <atomic>

#include "platform.cuh"

namespace fa {

/** More than 48 KiB of shared memory has to be asked for, once a kernel and device. */
template <class Kernel>
cudaError_t allow_shared(Kernel* kernel, int bytes, std::atomic<u64>& allowed) {
  if (bytes <= 48 << 10) return cudaSuccess;
  int device = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  const u64 bit = u64{1} << (device & 63);
  if (allowed.load(std::memory_order_relaxed) & bit) return cudaSuccess;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess) allowed.fetch_or(bit, std::memory_order_relaxed);
  return error;
}

inline i64 blocks_of(i64 items, i64 each) { return (items + each - 1) / each; }

}  // namespace fa
