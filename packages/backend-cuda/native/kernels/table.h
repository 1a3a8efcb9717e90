// The kernels there are, and how each is started. One .cu file a dtype and direction, so that they compile side by side.
#pragma once

#include "lib/score.cuh"

namespace fa {

cudaError_t decode_float16(const Attention& p, bool general, cudaStream_t stream);
cudaError_t decode_bfloat16(const Attention& p, bool general, cudaStream_t stream);
cudaError_t decode_float32(const Attention& p, bool general, cudaStream_t stream);
cudaError_t forward_float16(const Attention& p, bool general, cudaStream_t stream);
cudaError_t forward_bfloat16(const Attention& p, bool general, cudaStream_t stream);
cudaError_t forward_float32(const Attention& p, bool general, cudaStream_t stream);
cudaError_t backward_float16(const Attention& p, bool general, cudaStream_t stream);
cudaError_t backward_bfloat16(const Attention& p, bool general, cudaStream_t stream);
cudaError_t backward_float32(const Attention& p, bool general, cudaStream_t stream);

#ifdef FA_SM90A
/** Kernels for sm_90a: `p` within what their rows of the table take, and all of its memory at multiples of 16 bytes. */
cudaError_t forward_hopper_float16(const Attention& p, bool shortKeys, int processors, cudaStream_t stream);
cudaError_t forward_hopper_bfloat16(const Attention& p, bool shortKeys, int processors, cudaStream_t stream);
cudaError_t forward_hopper_general_float16(const Attention& p, int processors, cudaStream_t stream);
cudaError_t forward_hopper_general_bfloat16(const Attention& p, int processors, cudaStream_t stream);
#endif

cudaError_t run_cast(const double* slots, cudaStream_t stream);
cudaError_t run_matmul(const double* slots, cudaStream_t stream);
cudaError_t run_column_sums(const double* slots, cudaStream_t stream);
/** GFLOP/s of dense bfloat16 by mma.sync. */
cudaError_t measure_roof(int processors, double* gflops, cudaStream_t stream);

/** Blocks along x that a grid may have. */
constexpr i64 MAX_GRID = 0x7fffffff;

/** Counters of an instance, for kernels whose last block does something more. packages/backend-cuda/src/kernels.ts has the same. */
constexpr int MOST_COUNTERS = 4096;


}  // namespace fa
