/** What each back end takes, asked of core's planner with the back end's own kernel table: nothing is claimed by hand. */
import {
  attentionProblem,
  linearProblem,
  plan,
  FLOAT_DTYPES,
  MAX_HEAD_DIM,
  type AttentionOptionsOf,
  type AttentionProblem,
  type Backend,
  type FloatDType,
  type Problem,
  type TensorSpec,
} from "@fa/core";

/** What the planner needs to know of a back end. */
export type Planned = Pick<Backend, "name" | "capabilities" | "kernels">;

export interface SupportTable {
  readonly columns: readonly string[];
  readonly rows: readonly { readonly capability: string; readonly cells: readonly string[] }[];
}

const B = 2;
const H = 4;
const S = 64;
const D = 64;

interface Question {
  readonly options?: AttentionOptionsOf<TensorSpec>;
  readonly dtype?: FloatDType;
  readonly Hkv?: number;
  readonly D?: number;
  readonly Dv?: number;
  readonly rank?: 3 | 4;
}

type AttentionOp = AttentionProblem["op"];

function attention(op: AttentionOp, question: Question): Problem {
  const { options = {}, dtype = "float32", Hkv = H, D: dim = D, Dv = dim, rank = 4 } = question;
  const spec = (heads: number, width: number): TensorSpec => {
    if (rank === 3) return { shape: [B, S, width], dtype };
    return { shape: options.layout === "bshd" ? [B, S, heads, width] : [B, heads, S, width], dtype };
  };
  return attentionProblem({ q: spec(H, dim), k: spec(Hkv, dim), v: spec(Hkv, Dv) }, options, op);
}

const float = (...shape: number[]): TensorSpec => ({ shape, dtype: "float32" });

/** By the words of the README. */
const ATTENTION: Readonly<Record<string, Question>> = {
  ...Object.fromEntries(FLOAT_DTYPES.map((dtype) => [dtype, { dtype }])),
  "Dv other than D": { Dv: 32 },
  "grouped and multi-query heads": { Hkv: 1 },
  "layout `bshd`": { options: { layout: "bshd" } },
  "rank 3 `[B, S, D]`": { rank: 3 },
  "`causal`, bottom-right": { options: { causal: true } },
  "`causal`, top-left": { options: { causal: "top-left" } },
  "`window`": { options: { window: [16, 0] } },
  "`softcap`": { options: { softcap: 30 } },
  "`alibiSlopes`": { options: { alibiSlopes: float(H) } },
  "`bias`, with its gradient": { options: { bias: float(1, H, S, S) } },
  "`mask`": { options: { mask: { shape: [B, 1, S, S], dtype: "bool" } } },
  "`sinks`, with their gradient": { options: { sinks: float(H) } },
  "`dropout`": { options: { dropout: { p: 0.1, seed: 1 } } },
};

export function supportTable(backends: readonly Planned[]): SupportTable {
  const row = (capability: string, cell: (backend: Planned) => string) => ({
    capability,
    cells: backends.map(cell),
  });
  const asked = Object.entries(ATTENTION).map(([capability, question]) =>
    row(capability, (backend) =>
      passes(
        takes(backend, attention("attention", question)),
        takes(backend, attention("attentionBackward", question)),
      ),
    ),
  );
  const [x, weight] = [float(B, S, D), float(D, D)];
  return {
    columns: backends.map(({ name }) => name),
    rows: [
      row("head dims", headDims),
      ...asked,
      row("`linear`, the projections of `FlashMHA`", (backend) =>
        passes(
          takes(backend, linearProblem("linear", { x, weight })),
          takes(backend, linearProblem("linear", { x, weight }, undefined, "linearBackward")),
        ),
      ),
      row("`cast`", (backend) => {
        const from = FLOAT_DTYPES.filter((dtype) =>
          FLOAT_DTYPES.every((to) => takes(backend, { op: "cast", dtype, resultDType: to, elements: 1 })),
        );
        return from.length === FLOAT_DTYPES.length ? "yes" : from.join(", ") || "no";
      }),
    ],
  };
}

function takes({ capabilities, kernels }: Planned, problem: Problem): boolean {
  return plan(problem, capabilities, kernels).ok;
}

function passes(forward: boolean, backward: boolean): string {
  if (forward && backward) return "yes";
  if (forward) return "forward";
  return backward ? "backward" : "no";
}

/** "1 to 256": every D that forward and backward take. */
function headDims(backend: Planned): string {
  const ops: readonly AttentionOp[] = ["attention", "attentionBackward"];
  const ranges: [number, number][] = [];
  for (let dim = 1; dim <= MAX_HEAD_DIM; dim++) {
    if (!ops.every((op) => takes(backend, attention(op, { D: dim })))) continue;
    const last = ranges.at(-1);
    if (last?.[1] === dim - 1) last[1] = dim;
    else ranges.push([dim, dim]);
  }
  return ranges.map(([from, to]) => (from === to ? `${from}` : `${from} to ${to}`)).join(", ") || "no";
}
