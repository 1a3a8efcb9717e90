#pragma once

#include "../launch.h"

namespace fa {

/** Facts of the n-th attention kernel; 0 past the end. In the order of src/kernels.ts: op, dtype, head dim. */
int kernel_facts(int n, FaKernel* kernel);

}  // namespace fa
