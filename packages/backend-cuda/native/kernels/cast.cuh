// y = x in another float dtype, rounded once. A grid-stride loop over elements.
#pragma once

#include "lib/dtype.cuh"

namespace fa {

constexpr int CAST_THREADS = 256;

template <class From, class To>
__global__ void __launch_bounds__(CAST_THREADS) cast(const From* x_gmem, To* y_gmem, i64 elements) {
  const i64 stride = i64{gridDim.x} * CAST_THREADS;
  for (i64 n = blockIdx.x * i64{CAST_THREADS} + threadIdx.x; n < elements; n += stride)
    from_float(y_gmem[n], to_float(x_gmem[n]));
}

}  // namespace fa
