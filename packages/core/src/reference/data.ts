import { dropoutMask, keepScale } from "../philox.ts";
import { offsetIn, inBand } from "../mask.ts";
import { rowStrides, type AttentionProblem, type RowStrides } from "../problem.ts";
import { step } from "../score-program.ts";

/** The tensors of an attention call as numbers, in the layout of the problem. */
export interface AttentionData {
  /** [B, H, Sq, D] */
  readonly q: Float64Array;
  /** [B, Hkv, Skv, D] */
  readonly k: Float64Array;
  /** [B, Hkv, Skv, Dv] */
  readonly v: Float64Array;
  /** Broadcast over [B, H, Sq, Skv]. */
  readonly bias?: Float64Array | undefined;
  /** The same, one byte an element, not 0 = may attend. */
  readonly mask?: Uint8Array | undefined;
  /** [H] or [B, H] */
  readonly alibiSlopes?: Float64Array | undefined;
  /** [H] */
  readonly sinks?: Float64Array | undefined;
}

export interface AttentionNumbers {
  /** [B, H, Sq, Dv] in the layout of the problem */
  readonly out: Float64Array;
  /** [B, H, Sq] */
  readonly lse: Float64Array;
}

export interface GradientNumbers {
  readonly dq: Float64Array;
  readonly dk: Float64Array;
  readonly dv: Float64Array;
  readonly dbias?: Float64Array | undefined;
  readonly dsinks?: Float64Array | undefined;
}

/** Where the rows of each tensor begin. */
export interface Rows {
  readonly q: RowStrides;
  readonly k: RowStrides;
  readonly v: RowStrides;
  readonly out: RowStrides;
}

export function rowsOf({ layout, H, Hkv, Sq, Skv, D, Dv }: AttentionProblem): Rows {
  return {
    q: rowStrides(layout, H, Sq, D),
    k: rowStrides(layout, Hkv, Skv, D),
    v: rowStrides(layout, Hkv, Skv, Dv),
    out: rowStrides(layout, H, Sq, Dv),
  };
}

export function rowAt({ batch, head, row }: RowStrides, b: number, h: number, i: number): number {
  return b * batch + h * head + i * row;
}

/** Dot product of `length` elements of a from `x` and of c from `y`. */
export function dot(a: Float64Array, x: number, c: Float64Array, y: number, length: number): number {
  let sum = 0;
  for (let d = 0; d < length; d++) sum += a[x + d] * c[y + d];
  return sum;
}

/** y[at + d] += factor * x[from + d] */
export function addScaled(
  y: Float64Array,
  at: number,
  factor: number,
  x: Float64Array,
  from: number,
  length: number,
): void {
  for (let d = 0; d < length; d++) y[at + d] += factor * x[from + d];
}

/** The score program of one (batch, head), as functions of query row i and key j. */
export interface HeadProgram {
  /** From a raw q.k to the score that the softmax sees; visibility apart. */
  readonly score: (i: number, j: number, qk: number) => number;
  /** d score / d (q.k) */
  readonly scoreSlope: (qk: number) => number;
  readonly visible: (i: number, j: number) => boolean;
  /** What the probability is multiplied with: 1 without dropout, else 0 or 1 / (1 - p). */
  readonly dropoutFactor: (i: number, j: number) => number;
  /** The logit in the denominator; -Infinity without sinks, which adds nothing. */
  readonly sink: number;
  /** Where the gradient of bias[b, h, i, j] is summed. */
  readonly biasAt: (i: number, j: number) => number;
}

export function headProgram(problem: AttentionProblem, data: AttentionData, b: number, h: number): HeadProgram {
  const { program, H, Sq, Skv } = problem;
  const scale = step(program, "scale")!.scale;
  const cap = step(program, "softcap")?.cap ?? 0;
  const bias = step(program, "bias")?.operand;
  const alibi = step(program, "alibi");
  const slope = alibi ? data.alibiSlopes![alibi.perBatch ? b * H + h : h] : 0;
  const visibility = step(program, "visibility");
  const dropout = step(program, "dropout");
  const keep = dropout && dropoutMask(dropout, b * H + h);
  const kept = dropout ? keepScale(dropout.p) : 1;
  const diagonal = Skv - Sq;
  const biasAt = (i: number, j: number): number => (bias ? offsetIn(bias, b, h, i, j) : 0);
  return {
    score(i, j, qk) {
      let s = scale * qk;
      if (cap) s = cap * Math.tanh(s / cap);
      if (bias) s += data.bias![biasAt(i, j)];
      if (alibi) s -= slope * Math.abs(i + diagonal - j);
      return s;
    },
    scoreSlope(qk) {
      return cap ? scale * (1 - Math.tanh((scale * qk) / cap) ** 2) : scale;
    },
    visible(i, j) {
      if (!visibility) return true;
      const { band, mask } = visibility;
      return inBand(band, i, j) && (!mask || data.mask![offsetIn(mask, b, h, i, j)] !== 0);
    },
    dropoutFactor: (i, j) => (!keep ? 1 : keep(i, j) ? kept : 0),
    sink: data.sinks ? data.sinks[h] : -Infinity,
    biasAt,
  };
}

/** An output is a number or NaN: infinities only arise from infinities in values that the row sees. */
export function finiteOrNaN(x: number): number {
  return Number.isFinite(x) ? x : NaN;
}

/** What to subtract before exp: the row's max, or 0 where the row has seen nothing, since -Infinity - -Infinity is NaN. */
export function subtrahend(m: number): number {
  return m === -Infinity ? 0 : m;
}
