// c [M, N] = a [M, K] b [K, N] + bias [N]: the projections around attention and their gradients. 16 bits on tensor cores, where rows
// or columns of a and b are contiguous; float32 and float8, and any strides, by float32 multiply-add.
#pragma once

#include "lib/tile.cuh"

namespace fa {

/** By multiply-add: a block of 256 threads owns 64 x 64 of c, a thread 4 x 4. */
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

/** On tensor cores: a block owns OWN x OWN of c, a warp 32 x 64; tiles of a and b are DEPTH deep and loaded STAGES - 1 ahead. */
struct TensorMatmul {
  static constexpr int OWN = 128, DEPTH = 64, STAGES = 3, WARPS = 8, THREADS = 32 * WARPS;
  static constexpr int TILE_BYTES = 2 * OWN * DEPTH;
  static constexpr int SHARED_BYTES = 2 * STAGES * TILE_BYTES;
};

/** The A operand of a step from a tile [k, m]: its columns `column` to `column` + 15. */
template <class T, int HD>
FA_DEVICE void load_a_columns(u32 (&a_reg)[4], u32 tile_smem, int step, int column) {
  const int lane = lane_id();
  const int row = 16 * step + (lane & 7) + ((lane >> 4) << 3);
  ldmatrix_x4_trans(a_reg, Tile<T, HD>::chunk_at(tile_smem, row, column / 8 + ((lane >> 3) & 1)));
}

/**
 * load: OWN x DEPTH of an operand, as [OWN, DEPTH] if it is contiguous along the sum (ALONG), else as [DEPTH, OWN].
 * @param at_gmem its element (0, 0), `pitch` elements from one row of the tile to the next
 */
template <class T, bool ALONG>
FA_DEVICE void load_operand(u32 tile_smem, const T* at_gmem, i64 pitch, i64 own0, i64 owns, i64 k0, i64 ks) {
  constexpr int ROWS = ALONG ? TensorMatmul::OWN : TensorMatmul::DEPTH, WIDTH = ALONG ? TensorMatmul::DEPTH : TensorMatmul::OWN;
  const i64 row0 = ALONG ? own0 : k0, rows = ALONG ? owns : ks, column0 = ALONG ? k0 : own0, columns = ALONG ? ks : owns;
  const bool aligned = pitch % 8 == 0 && columns % 8 == 0 && reinterpret_cast<std::uintptr_t>(at_gmem) % 16 == 0;
  const auto at = [&](int row) -> const T* {
    return row0 + row < rows ? at_gmem + (row0 + row) * pitch + column0 : nullptr;
  };
  load_tile<T, WIDTH, ROWS, TensorMatmul::THREADS>(tile_smem, at_gmem, at, static_cast<int>(least<i64>(WIDTH, columns - column0)),
                                                   aligned);
}

/** A_ALONG, B_ALONG: whether a and b are contiguous along the sum; else they are across it. c is contiguous along its rows. */
template <class T, bool A_ALONG, bool B_ALONG>
__global__ void __launch_bounds__(TensorMatmul::THREADS, 2) tensor_matmul(const Matmul p) {
  constexpr int OWN = TensorMatmul::OWN, DEPTH = TensorMatmul::DEPTH, STAGES = TensorMatmul::STAGES;
  constexpr int TILE_BYTES = TensorMatmul::TILE_BYTES;
  const i64 columnBlocks = (p.N + OWN - 1) / OWN;
  const i64 m0 = blockIdx.x / columnBlocks * OWN, n0 = blockIdx.x % columnBlocks * OWN;
  const int warpRow = warp_id() / 2 * 32, warpColumn = warp_id() % 2 * 64;
  const i64 tiles = (p.K + DEPTH - 1) / DEPTH;

  const auto load = [&](i64 tile) {
    if (tile < tiles) {
      const u32 a_smem = static_cast<u32>(tile % STAGES) * 2 * TILE_BYTES, b_smem = a_smem + TILE_BYTES;
      const i64 k0 = tile * DEPTH;
      load_operand<T, A_ALONG>(a_smem, static_cast<const T*>(p.a.at_gmem), A_ALONG ? p.a.row : p.a.column, m0, p.M, k0, p.K);
      load_operand<T, B_ALONG>(b_smem, static_cast<const T*>(p.b.at_gmem), B_ALONG ? p.b.column : p.b.row, n0, p.N, k0, p.K);
    }
    cp_async_commit();
  };

  Fragment acc_reg[2][8] = {};
#pragma unroll
  for (int tile = 0; tile < STAGES - 1; tile++) load(tile);
  for (i64 tile = 0; tile < tiles; tile++) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();
    load(tile + STAGES - 1);
    const u32 a_smem = static_cast<u32>(tile % STAGES) * 2 * TILE_BYTES, b_smem = a_smem + TILE_BYTES;
    const int steps = steps_of<T>(static_cast<int>(least<i64>(DEPTH, p.K - tile * DEPTH)));
#pragma unroll
    for (int step = 0; step < DEPTH / 16; step++) {
      if (step >= steps) break;
      OperandA<T> a[2];
#pragma unroll
      for (int m = 0; m < 2; m++) {
        u32 a_reg[4];
        if constexpr (A_ALONG) load_a<T, DEPTH>(a_reg, a_smem, warpRow + 16 * m, step);
        else load_a_columns<T, OWN>(a_reg, a_smem, step, warpRow + 16 * m);
        a[m] = OperandA<T>(a_reg);
      }
#pragma unroll
      for (int n = 0; n < 4; n++) {
        u32 b_reg[4];
        if constexpr (B_ALONG) load_b_rows<T, DEPTH>(b_reg, b_smem, warpColumn + 16 * n, step);
        else load_b_columns<T, OWN>(b_reg, b_smem, step, warpColumn + 16 * n);
#pragma unroll
        for (int m = 0; m < 2; m++) {
          multiply(acc_reg[m][2 * n], a[m], OperandB<T>(b_reg[0], b_reg[1]));
          multiply(acc_reg[m][2 * n + 1], a[m], OperandB<T>(b_reg[2], b_reg[3]));
        }
      }
    }
  }
  cp_async_wait<0>();

  // finish
  const int g = lane_id() >> 2, t = lane_id() & 3;
  T* c_gmem = static_cast<T*>(const_cast<void*>(p.c.at_gmem));
  const bool pairs = p.c.row % 2 == 0 && reinterpret_cast<std::uintptr_t>(c_gmem) % 4 == 0;
#pragma unroll
  for (int n = 0; n < 8; n++) {
    const i64 column = n0 + warpColumn + 8 * n + 2 * t;
    float bias[2] = {0.f, 0.f};
#pragma unroll
    for (int e = 0; e < 2; e++) {
      if (p.bias_gmem && column + e < p.N) bias[e] = to_float(static_cast<const T*>(p.bias_gmem)[column + e]);
    }
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const i64 row = m0 + warpRow + 16 * m + g + 8 * half;
        if (row >= p.M || column >= p.N) continue;
        T* to_gmem = c_gmem + row * p.c.row + column;
        const float first = acc_reg[m][n][2 * half] + bias[0], second = acc_reg[m][n][2 * half + 1] + bias[1];
        if (pairs && column + 1 < p.N) {
          *reinterpret_cast<u32*>(to_gmem) = pack2<T>(first, second);
        } else {
          from_float(to_gmem[0], first);
          if (column + 1 < p.N) from_float(to_gmem[1], second);
        }
      }
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
