// c [M, N] = a [M, K] b [K, N] + bias [N], any dtype and strides, float32 multiply-add: the projections around attention and
// their gradients. A block of 256 threads owns 64 x 64 of c, a thread 4 x 4.
#pragma once

#include "lib/dtype.cuh"

namespace fa {

constexpr int MATMUL_TILE = 64, MATMUL_DEPTH = 16, MATMUL_THREADS = 256;
constexpr int MATMUL_SHARED_BYTES = 2 * MATMUL_DEPTH * (MATMUL_TILE + 1) * 4;

/** Element (i, j) is at i rows + j columns. */
struct Matrix {
  const void* at_gmem;
  i64 row, column;
};

struct Matmul {
  Matrix a, b, c;
  /** [N] or null */
  const void* bias_gmem;
  i64 M, N, K;
};

template <class T>
__global__ void __launch_bounds__(MATMUL_THREADS) matmul(const Matmul p) {
  constexpr int PITCH = MATMUL_TILE + 1;
  float* a_smem = reinterpret_cast<float*>(shared_base());
  float* b_smem = a_smem + MATMUL_DEPTH * PITCH;
  const i64 columnBlocks = (p.N + MATMUL_TILE - 1) / MATMUL_TILE;
  const i64 m0 = blockIdx.x / columnBlocks * MATMUL_TILE, n0 = blockIdx.x % columnBlocks * MATMUL_TILE;
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  float acc_reg[4][4] = {};
  for (i64 k0 = 0; k0 < p.K; k0 += MATMUL_DEPTH) {
    for (int n = threadIdx.x; n < MATMUL_TILE * MATMUL_DEPTH; n += MATMUL_THREADS) {
      const int k = n % MATMUL_DEPTH, at = n / MATMUL_DEPTH;
      const bool inside = k0 + k < p.K;
      const T* a_gmem = static_cast<const T*>(p.a.at_gmem) + (m0 + at) * p.a.row + (k0 + k) * p.a.column;
      const T* b_gmem = static_cast<const T*>(p.b.at_gmem) + (k0 + k) * p.b.row + (n0 + at) * p.b.column;
      a_smem[k * PITCH + at] = inside && m0 + at < p.M ? to_float(*a_gmem) : 0.f;
      b_smem[k * PITCH + at] = inside && n0 + at < p.N ? to_float(*b_gmem) : 0.f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < MATMUL_DEPTH; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) acc_reg[i][j] += a_smem[k * PITCH + y + 16 * i] * b_smem[k * PITCH + x + 16 * j];
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < 4; i++) {
    for (int j = 0; j < 4; j++) {
      const i64 m = m0 + y + 16 * i, n = n0 + x + 16 * j;
      if (m >= p.M || n >= p.N) continue;
      const float bias = p.bias_gmem ? to_float(static_cast<const T*>(p.bias_gmem)[n]) : 0.f;
      T* c_gmem = static_cast<T*>(const_cast<void*>(p.c.at_gmem)) + m * p.c.row + n * p.c.column;
      from_float(*c_gmem, acc_reg[i][j] + bias);
    }
  }
}

/** sums [N] of the columns of x [M, N]; a thread a column. */
template <class T>
__global__ void __launch_bounds__(MATMUL_THREADS) column_sums(const T* x_gmem, T* sums_gmem, i64 M, i64 N) {
  const i64 n = blockIdx.x * i64{MATMUL_THREADS} + threadIdx.x;
  if (n >= N) return;
  float sum = 0.f;
  for (i64 m = 0; m < M; m++) sum += to_float(x_gmem[m * N + n]);
  from_float(sums_gmem[n], sum);
}

}  // namespace fa
