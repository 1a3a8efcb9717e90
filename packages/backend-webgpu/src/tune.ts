import { MAX_HEAD_DIM, measure, measuredProblem, plan, type Backend, type FloatDType } from "@fa/core";
import type { WebgpuRow } from "./kernels/row.ts";

/** Which kernels were the fastest on a device. Plain data: save it as JSON, and pass it to `webgpu({ tuning })`. */
export interface Tuning {
  /** Of `fa.backend.device`; on another device it is not used. */
  readonly device: string;
  readonly choices: readonly Choice[];
}

/** The kernel for a class of problems. */
export interface Choice {
  readonly kernel: string;
  readonly dtype: FloatDType;
  /** D and Dv. */
  readonly headDim: { readonly min: number; readonly max: number };
  /** Milliseconds of each kernel that takes the class, on a problem of it. */
  readonly ms: Readonly<Record<string, number>>;
}

/** What is tuned apart, and how long the sequences are that it is measured on. */
export interface Classes {
  readonly dtypes: readonly FloatDType[];
  /** The largest head dim of each class, in rising order; it is measured on that. */
  readonly headDims: readonly number[];
  readonly S: number;
}

/** Sequences that fill a GPU. */
const CLASSES: Classes = { dtypes: ["float32", "float16", "bfloat16"], headDims: [64, 128, 256], S: 1024 };

/** Times every forward kernel that a device can run, verified against each other. */
export async function tune(backend: Backend, { dtypes, headDims, S }: Classes = CLASSES): Promise<Tuning> {
  const choices: Choice[] = [];
  for (const dtype of dtypes) {
    let min = 1;
    for (const max of headDims) {
      const problem = measuredProblem({ H: 8, Sq: S, Skv: S, D: max, dtype });
      const rows = backend.kernels.filter((row) => plan(problem, backend.capabilities, [row]).ok);
      const ms: Record<string, number> = {};
      let expected: Float32Array | undefined;
      for (const row of rows) {
        const measured = await measure(backend, problem, expected, { kernels: [row] });
        if (!measured.ok) continue;
        expected ??= measured.out;
        ms[row.id] = measured.ms;
      }
      const [best] = Object.entries(ms).toSorted(([, a], [, b]) => a - b);
      if (best) choices.push({ kernel: best[0], dtype, headDim: { min, max }, ms });
      min = max + 1;
    }
  }
  return { device: backend.device, choices };
}

/** The table as a tuning orders it: before the kernels that a class was measured with, the fastest of them for that class. */
export function tuned(kernels: readonly WebgpuRow[], { choices }: Tuning): readonly WebgpuRow[] {
  return kernels.flatMap((row, at) => {
    const chosen = choices.filter(({ ms }) => kernels.findIndex(({ id }) => Object.hasOwn(ms, id)) === at);
    const first = chosen.flatMap(({ kernel, dtype, headDim }) => {
      const best = kernels.find(({ id, dtypes }) => id === kernel && dtypes.includes(dtype));
      return best ? [{ ...best, dtypes: [dtype], headDim: narrowed(best, headDim) }] : [];
    });
    return [...first, row];
  });
}

function narrowed({ headDim: { min, max } = { min: 1, max: MAX_HEAD_DIM } }: WebgpuRow, to: Choice["headDim"]) {
  return { min: Math.max(min, to.min), max: Math.min(max, to.max) };
}
