import { BACKWARD } from "./backward.ts";
import { CAST } from "./cast.ts";
import { DECODE, DECODE_SUBGROUPS } from "./decode.ts";
import { FORWARD } from "./forward.ts";
import { LINEAR, LINEAR_BACKWARD } from "./linear.ts";
import { MATRIX } from "./matrix.ts";
import type { WebgpuRow } from "./row.ts";

/** Every kernel of the back end, the best for a problem first. Dispatch, tests and the support table read these rows. */
export const KERNELS: readonly WebgpuRow[] = [
  ...DECODE_SUBGROUPS,
  DECODE,
  ...MATRIX,
  ...FORWARD,
  BACKWARD,
  CAST,
  LINEAR,
  LINEAR_BACKWARD,
];
