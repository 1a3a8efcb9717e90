import {
  MAX_HEAD_DIM,
  measure,
  measuredProblem,
  plan,
  type AttentionProblem,
  type Backend,
  type FloatDType,
  type KernelRow,
} from "@fa/core";
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
  /** Query rows in all, B H Sq, up to which it is meant; left out, any number. */
  readonly maxTotalRows?: number | undefined;
  /** Milliseconds of each kernel that takes the class, on a problem of it. */
  readonly ms: Readonly<Record<string, number>>;
}

/** What is tuned apart. */
export interface Classes {
  readonly dtypes: readonly FloatDType[];
  /** The largest head dim of each class, in rising order; it is measured on that. */
  readonly headDims: readonly number[];
  /** Sq and Skv that each class is measured on, in rising order; it reaches to twice as many rows, the last to all. */
  readonly lengths: readonly number[];
}

const HEADS = 8;

/** From a few workgroups to sequences that fill a GPU. */
const CLASSES: Classes = {
  dtypes: ["float32", "float16", "bfloat16"],
  headDims: [64, 128, 256],
  lengths: [256, 1024, 2048],
};

/** Times every forward kernel that a device can run, verified against each other. */
export async function tune(backend: Backend, { dtypes, headDims, lengths }: Classes = CLASSES): Promise<Tuning> {
  const choices: Choice[] = [];
  // What a table says small or large problems are best done with is to be found out.
  const kernels = backend.kernels.map((row) => ({ ...row, maxTotalRows: undefined }));
  for (const dtype of dtypes) {
    let min = 1;
    for (const max of headDims) {
      for (const [n, S] of lengths.entries()) {
        const problem = measuredProblem({ H: HEADS, Sq: S, Skv: S, D: max, dtype });
        const ms = await timesOf(
          backend,
          problem,
          kernels.filter((row) => plan(problem, backend.capabilities, [row]).ok),
        );
        const [best] = Object.entries(ms).toSorted(([, a], [, b]) => a - b);
        const maxTotalRows = n < lengths.length - 1 ? 2 * HEADS * S : undefined;
        if (best) choices.push({ kernel: best[0], dtype, headDim: { min, max }, maxTotalRows, ms });
      }
      min = max + 1;
    }
  }
  return { device: backend.device, choices };
}

async function timesOf(backend: Backend, problem: AttentionProblem, rows: readonly KernelRow[]) {
  const ms: Record<string, number> = {};
  let expected: Float32Array | undefined;
  for (const row of rows) {
    const measured = await measure(backend, problem, expected, { kernels: [row] });
    if (!measured.ok) continue;
    expected ??= measured.out;
    ms[row.id] = measured.ms;
  }
  return ms;
}

/** The table as a tuning orders it: before the kernels that a class was measured with, the fastest of them for that class. */
export function tuned(kernels: readonly WebgpuRow[], { choices }: Tuning): readonly WebgpuRow[] {
  return kernels.flatMap((row, at) => {
    const chosen = choices.filter(({ ms }) => kernels.findIndex(({ id }) => Object.hasOwn(ms, id)) === at);
    const first = chosen.flatMap(({ kernel, dtype, headDim, maxTotalRows }) => {
      const best = kernels.find(({ id, dtypes }) => id === kernel && dtypes.includes(dtype));
      return best ? [{ ...best, dtypes: [dtype], headDim: narrowed(best, headDim), maxTotalRows }] : [];
    });
    return [...first, row];
  });
}

function narrowed({ headDim: { min, max } = { min: 1, max: MAX_HEAD_DIM } }: WebgpuRow, to: Choice["headDim"]) {
  return { min: Math.max(min, to.min), max: Math.min(max, to.max) };
}
