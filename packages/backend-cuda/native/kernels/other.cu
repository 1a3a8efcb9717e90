// cast, matmul, column sums and the roof: decoded from their slots and started.
#include "../launch.h"
#include "cast.cuh"
#include "lib/start.cuh"
#include "matmul.cuh"
#include "roof.cuh"
#include "table.h"

namespace fa {

namespace {

template <class T>
T* pointer(double slot) {
  return reinterpret_cast<T*>(static_cast<std::uintptr_t>(slot));
}

unsigned grid_of(i64 items, i64 each, i64 most) { return static_cast<unsigned>(least((items + each - 1) / each, most)); }

/** `use` with a value of the type that a dtype names. */
template <class Use>
cudaError_t with_dtype(double dtype, const Use& use) {
  switch (static_cast<int>(dtype)) {
    case FLOAT32:
      return use(float{});
    case FLOAT16:
      return use(Float16{});
    case BFLOAT16:
      return use(Bfloat16{});
    default:
      return use(Float8{});
  }
}

template <class From, class To>
cudaError_t start_cast(const double* slots, cudaStream_t stream) {
  const i64 elements = static_cast<i64>(slots[FA_CAST_ELEMENTS]);
  if (elements == 0) return cudaSuccess;
  const From* x_gmem = pointer<const From>(slots[FA_CAST_X]);
  To* y_gmem = pointer<To>(slots[FA_CAST_Y]);
  FA_LAUNCH((cast<From, To>), grid_of(elements, CAST_THREADS, 4096), CAST_THREADS, 0, stream, x_gmem, y_gmem, elements);
  return cudaGetLastError();
}

template <class T, bool A_ALONG, bool B_ALONG>
cudaError_t start_tensor_matmul(const Matmul& p, cudaStream_t stream) {
  static std::atomic<u64> allowed{0};
  const i64 grid = blocks_of(p.M, TensorMatmul::OWN) * blocks_of(p.N, TensorMatmul::OWN);
  if (grid == 0) return cudaSuccess;
  if (grid > MAX_GRID) return cudaErrorInvalidValue;
  constexpr int SHARED_BYTES = TensorMatmul::SHARED_BYTES;
  if (cudaError_t error = allow_shared(tensor_matmul<T, A_ALONG, B_ALONG>, SHARED_BYTES, allowed)) return error;
  FA_LAUNCH((tensor_matmul<T, A_ALONG, B_ALONG>), static_cast<unsigned>(grid), TensorMatmul::THREADS, SHARED_BYTES, stream, p);
  return cudaGetLastError();
}

template <class T>
cudaError_t start_matmul(const double* slots, cudaStream_t stream) {
  const auto matrix = [&](int first) -> Matrix {
    return {pointer<const void>(slots[first]), static_cast<i64>(slots[first + 1]), static_cast<i64>(slots[first + 2])};
  };
  const Matmul p = {matrix(FA_MATMUL_A),
                    matrix(FA_MATMUL_B),
                    matrix(FA_MATMUL_C),
                    pointer<const void>(slots[FA_MATMUL_BIAS]),
                    static_cast<i64>(slots[FA_MATMUL_M]),
                    static_cast<i64>(slots[FA_MATMUL_N]),
                    static_cast<i64>(slots[FA_MATMUL_K])};
  if constexpr (sizeof(T) == 2) {
    const bool aAlong = p.a.column == 1, bAlong = p.b.row == 1;
    if ((aAlong || p.a.row == 1) && (bAlong || p.b.column == 1) && p.c.column == 1) {
      if (aAlong) return bAlong ? start_tensor_matmul<T, true, true>(p, stream) : start_tensor_matmul<T, true, false>(p, stream);
      return bAlong ? start_tensor_matmul<T, false, true>(p, stream) : start_tensor_matmul<T, false, false>(p, stream);
    }
  }
  const i64 grid = (p.M + MATMUL_TILE - 1) / MATMUL_TILE * ((p.N + MATMUL_TILE - 1) / MATMUL_TILE);
  if (grid == 0) return cudaSuccess;
  if (grid > MAX_GRID) return cudaErrorInvalidValue;
  FA_LAUNCH(matmul<T>, static_cast<unsigned>(grid), MATMUL_THREADS, MATMUL_SHARED_BYTES, stream, p);
  return cudaGetLastError();
}

template <class T>
cudaError_t start_column_sums(const double* slots, cudaStream_t stream) {
  const i64 M = static_cast<i64>(slots[FA_SUMS_M]), N = static_cast<i64>(slots[FA_SUMS_N]);
  const T* x_gmem = pointer<const T>(slots[FA_SUMS_X]);
  T* sums_gmem = pointer<T>(slots[FA_SUMS_OUT]);
  FA_LAUNCH(column_sums<T>, grid_of(N, MATMUL_THREADS, MAX_GRID), MATMUL_THREADS, 0, stream, x_gmem, sums_gmem, M, N);
  return cudaGetLastError();
}

}  // namespace

cudaError_t run_cast(const double* slots, cudaStream_t stream) {
  return with_dtype(slots[FA_CAST_FROM], [&](auto from) {
    return with_dtype(slots[FA_CAST_TO],
                      [&](auto to) { return start_cast<decltype(from), decltype(to)>(slots, stream); });
  });
}

cudaError_t run_matmul(const double* slots, cudaStream_t stream) {
  return with_dtype(slots[FA_MATMUL_DTYPE], [&](auto type) { return start_matmul<decltype(type)>(slots, stream); });
}

cudaError_t run_column_sums(const double* slots, cudaStream_t stream) {
  return with_dtype(slots[FA_SUMS_DTYPE], [&](auto type) { return start_column_sums<decltype(type)>(slots, stream); });
}

cudaError_t measure_roof(int processors, double* gflops, cudaStream_t stream) {
  cudaEvent_t begin = nullptr, end = nullptr;
  cudaError_t error = cudaEventCreateWithFlags(&begin, 0);
  if (error == cudaSuccess) error = cudaEventCreateWithFlags(&end, 0);
  *gflops = 0;
  // Ever longer runs, until one takes long enough to be timed and warms the clock.
  for (int rounds = 64; error == cudaSuccess && rounds <= 1 << 20; rounds *= 4) {
    cudaEventRecord(begin, stream);
    FA_LAUNCH(roof, static_cast<unsigned>(ROOF_BLOCKS * processors), ROOF_THREADS, 0, stream, rounds, nullptr);
    cudaEventRecord(end, stream);
    error = cudaGetLastError();
    if (error == cudaSuccess) error = cudaEventSynchronize(end);
    float milliseconds = 0;
    if (error == cudaSuccess) error = cudaEventElapsedTime(&milliseconds, begin, end);
    if (error != cudaSuccess) break;
    const double flops = double{ROOF_BLOCKS} * processors * (ROOF_THREADS / 32) * ROOF_SUMS * 4096.0 * rounds;
    *gflops = most(*gflops, flops / milliseconds / 1e6);
    if (milliseconds > 20) break;
#ifdef FA_EMULATED
    break;
#endif
  }
  if (begin) cudaEventDestroy(begin);
  if (end) cudaEventDestroy(end);
  return error;
}

}  // namespace fa
