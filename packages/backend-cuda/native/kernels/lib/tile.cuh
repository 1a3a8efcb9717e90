// Tiles in shared memory and the products of tiles on tensor cores.
//
// A tile is ROWS x HD elements, each row in 16-byte chunks whose order is changed by the row (chunk ^ row % 8), so that eight
// rows of one column of chunks lie in different banks. A step of a product is 32 bytes of a row: 16 elements of 16 bits, or 8
// of float32. So both kinds share every address, and only the multiplication itself differs.
//
// float32 is split into two tf32 numbers of 11 bits, high + low, of whose four products three are made. Tensor cores cut off what
// they add, always toward zero: long sums are added outside, rounded.
//
// A warp multiplies with M times 16 rows, so that what it loads and splits of the other operand serves M products.
#pragma once

#include "dtype.cuh"

namespace fa {

template <class T, int HD>
struct Tile {
  static constexpr int ROW_BYTES = HD * static_cast<int>(sizeof(T));
  static constexpr int CHUNKS = ROW_BYTES / 16;
  static constexpr int CHUNK_ELEMS = 16 / static_cast<int>(sizeof(T));
  /** Elements of a row in one step of a product. */
  static constexpr int STEP = 32 / static_cast<int>(sizeof(T));
  static_assert(CHUNKS % 8 == 0, "the order of chunks changes within eight");

  static FA_DEVICE u32 chunk_at(u32 tile_smem, int row, int chunk) {
    return tile_smem + row * ROW_BYTES + ((chunk ^ (row & 7)) << 4);
  }
  static FA_DEVICE T& element(u32 tile_smem, int row, int column) {
    const u32 at = chunk_at(tile_smem, row, column / CHUNK_ELEMS) + (column % CHUNK_ELEMS) * sizeof(T);
    return *reinterpret_cast<T*>(shared_at(at));
  }
};

/** Steps of a product over `dim` columns. */
template <class T>
FA_DEVICE int steps_of(int dim) {
  return (dim * static_cast<int>(sizeof(T)) + 31) / 32;
}

struct alignas(16) Chunk {
  u32 word[4];
};

/** Element `e` of a chunk. */
template <class T>
FA_DEVICE T get_element(const Chunk& chunk, int e) {
  if constexpr (sizeof(T) == 2) return T{static_cast<u16>(chunk.word[e / 2] >> 16 * (e % 2))};
  else return bits_float(chunk.word[e]);
}
/** Puts element `e` into a chunk that has 0 there. */
FA_DEVICE void put_element(Chunk& chunk, int e, float x) { chunk.word[e] = float_bits(x); }
template <class T>
FA_DEVICE void put_element(Chunk& chunk, int e, T x) {
  chunk.word[e / 2] |= static_cast<u32>(x.bits) << 16 * (e % 2);
}

/**
 * load: rows of `dim` elements into a tile, zeros to the end of the last step and for rows that are not there.
 * @param anywhere_gmem a valid address, from which nothing is read
 * @param row_gmem where a row begins, or null
 * @tparam THREADS of the team that loads it
 * @param aligned rows begin and end at multiples of 16 bytes: copied behind the thread's back, see cp_async_wait
 */
template <class T, int HD, int ROWS, int THREADS, class RowAt>
FA_DEVICE void load_tile(u32 tile_smem, const T* anywhere_gmem, const RowAt& row_gmem, int dim, bool aligned) {
  using Layout = Tile<T, HD>;
  const int used = 2 * steps_of<T>(dim);
#pragma unroll 2
  for (int n = team_rank<THREADS>(); n < ROWS * Layout::CHUNKS; n += THREADS) {
    const int row = n / Layout::CHUNKS, chunk = n % Layout::CHUNKS;
    if (chunk >= used) continue;
    const T* from = row_gmem(row);
    const u32 to = Layout::chunk_at(tile_smem, row, chunk);
    const int first = chunk * Layout::CHUNK_ELEMS;
    if (aligned) {
      const bool there = from != nullptr && first < dim;
      cp_async16(to, there ? from + first : anywhere_gmem, there ? 16 : 0);
      continue;
    }
    Chunk words = {};
    if (from) {
#pragma unroll
      for (int e = 0; e < Layout::CHUNK_ELEMS; e++)
        if (first + e < dim) put_element(words, e, from[first + e]);
    }
    *reinterpret_cast<Chunk*>(shared_at(to)) = words;
  }
}

/** load: ROWS rows of HD elements, all there and aligned, `stride` elements from one to the next. */
template <class T, int HD, int ROWS, int THREADS>
FA_DEVICE void load_whole(u32 tile_smem, const T* from_gmem, i64 stride) {
  using Layout = Tile<T, HD>;
  // A turn loads one chunk a thread: a part of a row, or some rows.
  constexpr int PARTS = most(Layout::CHUNKS / THREADS, 1), ROWS_A_TURN = most(THREADS / Layout::CHUNKS, 1);
  static_assert(8 % ROWS_A_TURN == 0 || ROWS_A_TURN % 8 == 0, "so that the order of a row's chunks is that of the first turn, xor a constant");
  const int row = team_rank<THREADS>() / Layout::CHUNKS, chunk = team_rank<THREADS>() % Layout::CHUNKS;
  const u32 first = (chunk ^ (row & 7)) << 4;
  const T* row_gmem = from_gmem + row * stride + chunk * Layout::CHUNK_ELEMS;
#pragma unroll
  for (int turn = 0; turn < ROWS / ROWS_A_TURN; turn++, row_gmem += ROWS_A_TURN * stride) {
    const u32 row_smem = tile_smem + (row + turn * ROWS_A_TURN) * Layout::ROW_BYTES;
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
      const u32 at = (first ^ (((turn * ROWS_A_TURN) & 7) << 4)) + part * THREADS * 16;
      cp_async16(row_smem + at, row_gmem + part * THREADS * Layout::CHUNK_ELEMS, 16);
    }
  }
}

// ---- products

/** Sums of [16, 8] in the accumulator layout: rows g and g + 8 (g = lane / 4), columns 2 t and 2 t + 1 (t = lane % 4). */
using Fragment = float[4];

/** The A operand of a step: rows `row` to `row` + 15 of a tile. */
template <class T, int HD>
FA_DEVICE void load_a(u32 (&a_reg)[4], u32 tile_smem, int row, int step) {
  const int lane = lane_id();
  ldmatrix_x4(a_reg, Tile<T, HD>::chunk_at(tile_smem, row + (lane & 15), 2 * step + (lane >> 4)));
}

/** The B operands of a step for 16 columns of the product, which are rows `row` to `row` + 15 of a tile: a b^T. */
template <class T, int HD>
FA_DEVICE void load_b_rows(u32 (&b_reg)[4], u32 tile_smem, int row, int step) {
  const int lane = lane_id();
  ldmatrix_x4(b_reg, Tile<T, HD>::chunk_at(tile_smem, row + (lane & 7) + ((lane >> 4) << 3), 2 * step + ((lane >> 3) & 1)));
}

/**
 * The B operands of a step for 16 columns of the product, which are columns `column` to `column` + 15 of a tile: a b.
 * For float32 the rows of a step go in the order that `probabilities` gives the columns of its A operand.
 */
template <class T, int HD>
FA_DEVICE void load_b_columns(u32 (&b_reg)[4], u32 tile_smem, int step, int column) {
  const int lane = lane_id();
  if constexpr (sizeof(T) == 2) {
    const int row = 16 * step + (lane & 15);
    ldmatrix_x4_trans(b_reg, Tile<T, HD>::chunk_at(tile_smem, row, column / 8 + (lane >> 4)));
  } else {
    const int row = 8 * step + 2 * (lane & 3);
#pragma unroll
    for (int n = 0; n < 2; n++) {
      b_reg[2 * n] = float_bits(Tile<T, HD>::element(tile_smem, row, column + 8 * n + (lane >> 2)));
      b_reg[2 * n + 1] = float_bits(Tile<T, HD>::element(tile_smem, row + 1, column + 8 * n + (lane >> 2)));
    }
  }
}

/** Rows of B that a step of `a b` takes. */
template <class T>
constexpr int ROWS_A_STEP = sizeof(T) == 2 ? 16 : 8;

/** The A operand of step `step` from accumulators: rounded to T. */
template <class T, int N>
FA_DEVICE void probabilities(u32 (&a_reg)[4], const Fragment (&p_reg)[N], int step) {
  if constexpr (sizeof(T) == 2) {
    const Fragment &left = p_reg[2 * step], &right = p_reg[2 * step + 1];
    a_reg[0] = pack2<T>(left[0], left[1]);
    a_reg[1] = pack2<T>(left[2], left[3]);
    a_reg[2] = pack2<T>(right[0], right[1]);
    a_reg[3] = pack2<T>(right[2], right[3]);
  } else {
    // Columns 2 t go to place t, columns 2 t + 1 to place t + 4.
    const Fragment& p = p_reg[step];
    a_reg[0] = float_bits(p[0]);
    a_reg[1] = float_bits(p[2]);
    a_reg[2] = float_bits(p[1]);
    a_reg[3] = float_bits(p[3]);
  }
}

/**
 * high + low is the number but for 2^-21 of it: of high, a tensor core reads the first 11 bits, which are those that low leaves out, and
 * of low 11 bits of 13.
 */
FA_DEVICE void tf32_split(u32 bits, u32& high, u32& low) {
  high = bits;
  low = float_bits(bits_float(bits) - bits_float(bits & 0xffffe000u));
}

/** The A operand of a step, ready to be multiplied. */
template <class T>
struct OperandA {
  u32 word[4];
  FA_DEVICE OperandA() {}
  FA_DEVICE explicit OperandA(const u32 (&a_reg)[4]) : word{a_reg[0], a_reg[1], a_reg[2], a_reg[3]} {}
};
template <>
struct OperandA<float> {
  u32 high[4], low[4];
  FA_DEVICE OperandA() {}
  FA_DEVICE explicit OperandA(const u32 (&a_reg)[4]) {
#pragma unroll
    for (int n = 0; n < 4; n++) tf32_split(a_reg[n], high[n], low[n]);
  }
};

/** The B operand of a step for 8 columns. */
template <class T>
struct OperandB {
  u32 b0, b1;
  FA_DEVICE OperandB() {}
  FA_DEVICE OperandB(u32 first, u32 second) : b0(first), b1(second) {}
};
template <>
struct OperandB<float> {
  u32 high0, low0, high1, low1;
  FA_DEVICE OperandB() {}
  FA_DEVICE OperandB(u32 first, u32 second) {
    tf32_split(first, high0, low0);
    tf32_split(second, high1, low1);
  }
};

FA_DEVICE void multiply(Fragment& sum, const OperandA<Float16>& a, const OperandB<Float16>& b) {
  mma_f16(sum, a.word, b.b0, b.b1);
}
FA_DEVICE void multiply(Fragment& sum, const OperandA<Bfloat16>& a, const OperandB<Bfloat16>& b) {
  mma_bf16(sum, a.word, b.b0, b.b1);
}
/** The two small products, and then the main one. */
FA_DEVICE void multiply(Fragment& sum, const OperandA<float>& a, const OperandB<float>& b) {
  mma_tf32(sum, a.low, b.high0, b.high1);
  mma_tf32(sum, a.high, b.low0, b.low1);
  mma_tf32(sum, a.high, b.high0, b.high1);
}

FA_DEVICE void add(Fragment& sum, const Fragment& x) {
#pragma unroll
  for (int e = 0; e < 4; e++) sum[e] += x[e];
}

/**
 * scores: s [16 M, COLUMNS] = a b^T for the 16 M rows from `row` on of tile a and all rows of tile b, over `dim` columns.
 */
template <class T, int HD, int COLUMNS, int M>
FA_DEVICE void multiply_rows(Fragment (&s_reg)[M][COLUMNS / 8], u32 a_smem, int row, u32 b_smem, int dim) {
#pragma unroll
  for (int m = 0; m < M; m++) {
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) s_reg[m][n][e] = 0.f;
    }
  }
  const int steps = steps_of<T>(dim);
  const auto operands_a = [&](OperandA<T>(&a)[M], int step) {
#pragma unroll
    for (int m = 0; m < M; m++) {
      u32 a_reg[4];
      load_a<T, HD>(a_reg, a_smem, row + 16 * m, step);
      a[m] = OperandA<T>(a_reg);
    }
  };
  if constexpr (sizeof(T) == 2) {
#pragma unroll 8
    for (int step = 0; step < steps; step++) {
      OperandA<T> a[M];
      operands_a(a, step);
#pragma unroll
      for (int n = 0; n < COLUMNS / 16; n++) {
        u32 b_reg[4];
        load_b_rows<T, HD>(b_reg, b_smem, 16 * n, step);
#pragma unroll
        for (int m = 0; m < M; m++) {
          multiply(s_reg[m][2 * n], a[m], OperandB<T>(b_reg[0], b_reg[1]));
          multiply(s_reg[m][2 * n + 1], a[m], OperandB<T>(b_reg[2], b_reg[3]));
        }
      }
    }
  } else {
    // Sums leave the tensor core after every fourth step, and are added as float32, rounded.
    constexpr int TOGETHER = 4;
#pragma unroll 1
    for (int step = 0; step < steps; step += TOGETHER) {
      OperandA<T> a[TOGETHER][M];
#pragma unroll
      for (int k = 0; k < TOGETHER; k++)
        if (step + k < steps) operands_a(a[k], step + k);
#pragma unroll
      for (int n = 0; n < COLUMNS / 16; n++) {
        Fragment fresh[M][2] = {};
#pragma unroll
        for (int k = 0; k < TOGETHER; k++) {
          if (step + k >= steps) break;
          u32 b_reg[4];
          load_b_rows<T, HD>(b_reg, b_smem, 16 * n, step + k);
          const OperandB<T> b[2] = {{b_reg[0], b_reg[1]}, {b_reg[2], b_reg[3]}};
#pragma unroll
          for (int m = 0; m < M; m++) {
            multiply(fresh[m][0], a[k][m], b[0]);
            multiply(fresh[m][1], a[k][m], b[1]);
          }
        }
#pragma unroll
        for (int m = 0; m < M; m++) {
          add(s_reg[m][2 * n], fresh[m][0]);
          add(s_reg[m][2 * n + 1], fresh[m][1]);
        }
      }
    }
  }
}
template <class T, int HD, int COLUMNS>
FA_DEVICE void multiply_rows(Fragment (&s_reg)[COLUMNS / 8], u32 a_smem, int row, u32 b_smem, int dim) {
  multiply_rows<T, HD, COLUMNS, 1>(reinterpret_cast<Fragment(&)[1][COLUMNS / 8]>(s_reg), a_smem, row, b_smem, dim);
}

/**
 * accumulate: acc [16 M, WIDTH] += p b for p [16 M, ROWS] in registers and columns `first` to `first` + WIDTH - 1 of tile b, of
 * which those from `dim` on are left out.
 */
template <class T, int HD, int ROWS, int WIDTH, int M>
FA_DEVICE void multiply_columns(Fragment (&acc_reg)[M][WIDTH / 8], const Fragment (&p_reg)[M][ROWS / 8], u32 b_smem,
                                int first, int dim) {
  constexpr int STEPS = ROWS / ROWS_A_STEP<T>;
  OperandA<T> a[STEPS][M];
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
#pragma unroll
    for (int m = 0; m < M; m++) {
      u32 a_reg[4];
      probabilities<T>(a_reg, p_reg[m], step);
      a[step][m] = OperandA<T>(a_reg);
    }
  }
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
#pragma unroll
      for (int n = 0; n < WIDTH / 16; n++) {
        if (first + 16 * n >= dim) break;
        u32 b_reg[4];
        load_b_columns<T, HD>(b_reg, b_smem, step, first + 16 * n);
#pragma unroll
        for (int m = 0; m < M; m++) {
          multiply(acc_reg[m][2 * n], a[step][m], OperandB<T>(b_reg[0], b_reg[1]));
          multiply(acc_reg[m][2 * n + 1], a[step][m], OperandB<T>(b_reg[2], b_reg[3]));
        }
      }
    }
  } else {
    // The tile's share is summed by itself and added as float32, rounded: over many tiles, what tensor cores cut off adds up.
#pragma unroll
    for (int n = 0; n < WIDTH / 16; n++) {
      if (first + 16 * n >= dim) break;
      Fragment fresh[M][2] = {};
#pragma unroll
      for (int step = 0; step < STEPS; step++) {
        u32 b_reg[4];
        load_b_columns<T, HD>(b_reg, b_smem, step, first + 16 * n);
        const OperandB<T> b[2] = {{b_reg[0], b_reg[1]}, {b_reg[2], b_reg[3]}};
#pragma unroll
        for (int m = 0; m < M; m++) {
          multiply(fresh[m][0], a[step][m], b[0]);
          multiply(fresh[m][1], a[step][m], b[1]);
        }
      }
#pragma unroll
      for (int m = 0; m < M; m++) {
        add(acc_reg[m][2 * n], fresh[m][0]);
        add(acc_reg[m][2 * n + 1], fresh[m][1]);
      }
    }
  }
}
template <class T, int HD, int ROWS, int WIDTH>
FA_DEVICE void multiply_columns(Fragment (&acc_reg)[WIDTH / 8], const Fragment (&p_reg)[ROWS / 8], u32 b_smem, int first,
                                int dim) {
  multiply_columns<T, HD, ROWS, WIDTH, 1>(reinterpret_cast<Fragment(&)[1][WIDTH / 8]>(acc_reg),
                                          reinterpret_cast<const Fragment(&)[1][ROWS / 8]>(p_reg), b_smem, first, dim);
}

// ---- what is not finite

/**
 * Before `multiply_columns` where some pairs are hidden: 0 times NaN is NaN, so what is not finite is taken out of tile b, and put
 * as NaN into the sums of those rows that see it. Costs a look at the tile when all is finite, which is the common case.
 * Every thread of the team calls it; others' reads of the tile must be over, and tile b is not what it was.
 * @param sees (m, half, n): whether row 16 m + g (half 0) or g + 8 (half 1) of this warp sees row n of the tile
 */
template <class T, int HD, int ROWS, int WIDTH, int THREADS, int M, class Sees>
FA_DEVICE void take_out_nan(Fragment (&acc_reg)[M][WIDTH / 8], u32 b_smem, int first, int dim, const Sees& sees) {
  using Layout = Tile<T, HD>;
  const int used = 2 * steps_of<T>(dim);
  bool found = false;
  for (int n = team_rank<THREADS>(); n < ROWS * Layout::CHUNKS; n += THREADS) {
    const int row = n / Layout::CHUNKS, chunk = n % Layout::CHUNKS;
    if (chunk >= used) continue;
    const Chunk words = *reinterpret_cast<const Chunk*>(shared_at(Layout::chunk_at(b_smem, row, chunk)));
#pragma unroll
    for (int e = 0; e < Layout::CHUNK_ELEMS; e++) found = found || !is_finite(get_element<T>(words, e));
  }
  if (!team_or<THREADS>(found)) return;
  const int column = 2 * (lane_id() & 3);
  for (int row = 0; row < ROWS; row++) {
#pragma unroll
    for (int m = 0; m < M; m++) {
      const bool seen[2] = {sees(m, 0, row), sees(m, 1, row)};
#pragma unroll
      for (int n = 0; n < WIDTH / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int at = first + 8 * n + column + (e & 1);
          if (at < dim && seen[e >> 1] && !is_finite(Layout::element(b_smem, row, at))) acc_reg[m][n][e] = quiet_nan();
        }
      }
    }
  }
  team_sync<THREADS>();
  for (int n = team_rank<THREADS>(); n < ROWS * Layout::CHUNKS; n += THREADS) {
    const int row = n / Layout::CHUNKS, chunk = n % Layout::CHUNKS;
    if (chunk >= used) continue;
    Chunk& words = *reinterpret_cast<Chunk*>(shared_at(Layout::chunk_at(b_smem, row, chunk)));
    Chunk finite = {};
#pragma unroll
    for (int e = 0; e < Layout::CHUNK_ELEMS; e++) {
      const T x = get_element<T>(words, e);
      if (is_finite(x)) put_element(finite, e, x);
    }
    words = finite;
  }
  team_sync<THREADS>();
}

template <class T, int HD, int ROWS, int WIDTH, int THREADS, class Sees>
FA_DEVICE void take_out_nan(Fragment (&acc_reg)[WIDTH / 8], u32 b_smem, int first, int dim, const Sees& sees) {
  take_out_nan<T, HD, ROWS, WIDTH, THREADS, 1>(reinterpret_cast<Fragment(&)[1][WIDTH / 8]>(acc_reg), b_smem, first, dim,
                                               [&](int, int half, int row) { return sees(half, row); });
}

/** Adds, or takes the larger of, the four lanes that share a row. */
FA_DEVICE float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
FA_DEVICE float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
/** Adds, or takes the larger of, the eight lanes that share a column. */
FA_DEVICE float column_sum(float x) {
#pragma unroll
  for (int lanes = 16; lanes >= 4; lanes /= 2) x += __shfl_xor_sync(~0u, x, lanes);
  return x;
}
FA_DEVICE float column_max(float x) {
#pragma unroll
  for (int lanes = 16; lanes >= 4; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, lanes));
  return x;
}
FA_DEVICE float warp_sum(float x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(~0u, x, lanes);
  return x;
}
FA_DEVICE float warp_max(float x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, lanes));
  return x;
}

/** Word n of lane t of four goes to place t of lane n. */
FA_DEVICE void quad_transpose(u32 (&words)[4]) {
  const int t = lane_id() & 3;
#pragma unroll
  for (int distance = 1; distance <= 2; distance *= 2) {
    const bool upper = t & distance;
#pragma unroll
    for (int n = 0; n < 4; n++) {
      if (n & distance) continue;
      u32 &low = words[n], &high = words[n | distance];
      const u32 got = __shfl_xor_sync(~0u, upper ? low : high, distance);
      if (upper) low = got;
      else high = got;
    }
  }
}

}  // namespace fa
