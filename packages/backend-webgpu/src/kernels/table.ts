import { CAST } from "./cast.ts";
import type { WebgpuRow } from "./row.ts";

/** Every kernel of the back end, the best for a problem first. Dispatch, tests and the support table read these rows. */
export const KERNELS: readonly WebgpuRow[] = [CAST];
