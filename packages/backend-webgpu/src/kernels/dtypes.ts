import type { FloatDType } from "@fa/core";

/** What shaders call the float dtypes: `//#if DTYPE == F16`. Part of every kernel's params. */
export const DTYPE_CODES = { F32: 0, F16: 1, BF16: 2, F8: 3 } as const;

const CODE_OF: Readonly<Record<FloatDType, number>> = {
  float32: DTYPE_CODES.F32,
  float16: DTYPE_CODES.F16,
  bfloat16: DTYPE_CODES.BF16,
  float8e4m3: DTYPE_CODES.F8,
};

/** The code of a dtype, to be a param such as `DTYPE`. */
export function dtypeCode(dtype: FloatDType): number {
  return CODE_OF[dtype];
}
