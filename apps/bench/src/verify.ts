/**
 * Nothing is timed, drawn or written down that did not pass here. Both gates of the project: every element, and the
 * normalised mean square error of the whole, always as `!(error <= bound)` so that NaN fails.
 */
import { countFlops, roundTo, step, type AttentionProblem, type FloatDType } from "@fa/core";
import { naiveAttention, type AttentionData, type AttentionNumbers } from "@fa/core/reference";

/** How far a result is from the truth. Made by `verdict`, from both. */
export type Verification = Passed | Refuted;
/** What every time stands beside. */
export type Passed = Errors & { readonly ok: true };
export type Refuted = Errors & { readonly ok: false };

interface Errors {
  /** What it was compared with: "float64 reference, 16 of 4096 rows a head". */
  readonly against: string;
  /** Largest absolute error over all tensors; NaN if some element is NaN. */
  readonly maxError: number;
  /** Largest normalised mean square error of a tensor. */
  readonly meanSquareError: number;
  /** Largest error as a share of what it may be: above 1, or `mayErr`, is wrong. */
  readonly ofTolerance: number;
  /** How many times the tolerance it may err, where that is not once: a library that accumulates in half types. */
  readonly mayErr?: number | undefined;
  /** The tensor where that is. */
  readonly worst: string;
}

/** One tensor's result beside the truth. */
export interface Comparison {
  readonly tensor: string;
  readonly got: ArrayLike<number>;
  readonly truth: ArrayLike<number>;
  readonly bounds: Bounds;
}

export interface Bounds {
  readonly relative: number;
  readonly absolute: number;
  readonly meanSquare: number;
}

/** Of attention in float32. */
export const FLOAT32: Bounds = { relative: 1e-5, absolute: 1e-6, meanSquare: 1e-10 };

/**
 * Of a module and its gradients in float32, which are sums of hundreds to thousands of products: their rounding is in
 * proportion to the largest value around, however small the element itself came out.
 */
export function sumBounds(truth: Float64Array): Bounds {
  const largest = truth.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  return { ...FLOAT32, absolute: Math.max(FLOAT32.absolute, 2e-6 * largest) };
}

const HALF_MEAN_SQUARE: Readonly<Record<Exclude<FloatDType, "float32">, number>> = {
  float16: 1e-6,
  bfloat16: 1e-4,
  // Three bits of mantissa: probabilities rounded to them are off by 2 to 3 % each.
  float8e4m3: 1e-2,
};

/** The rule of FlashAttention's tests: twice the error of naive attention in the same dtype, and twice the grain at 0.3. */
export function halfBounds(
  dtype: Exclude<FloatDType, "float32">,
  resultDType: FloatDType,
  truth: Float64Array,
  naive: Float64Array,
): Bounds {
  const round = (x: number): number => roundTo(resultDType, x);
  let naiveError = 0;
  let grain = 0;
  truth.forEach((want, n) => {
    if (!Number.isFinite(want)) return;
    const stored = round(want);
    naiveError = Math.max(naiveError, Math.abs(naive[n] - want));
    grain = Math.max(grain, Math.abs(round(round(stored + 0.3) - 0.3) - stored));
  });
  return { relative: 0, absolute: 2 * naiveError + 2 * grain, meanSquare: HALF_MEAN_SQUARE[dtype] };
}

/**
 * The rule of FlashAttention's tests for gradients in half types: three times the error of naive attention, by either gate. Where
 * terms cancel, out rounded before the backward pass costs more than the mean square lets through, in naive attention too.
 */
export function halfGradientBounds(
  dtype: Exclude<FloatDType, "float32">,
  resultDType: FloatDType,
  truth: Float64Array,
  naive: Float64Array,
): Bounds {
  const bounds = halfBounds(dtype, resultDType, truth, naive);
  let naiveError = 0;
  let squares = 0;
  let energy = 0;
  truth.forEach((want, n) => {
    const error = Math.abs(naive[n] - want);
    naiveError = Math.max(naiveError, error);
    squares += error ** 2;
    energy += want ** 2;
  });
  return {
    ...bounds,
    absolute: bounds.absolute + naiveError,
    meanSquare: Math.max(bounds.meanSquare, (9 * squares) / energy),
  };
}

/** All comparisons of one result. */
export function verdict(against: string, comparisons: readonly Comparison[]): Verification {
  let maxError = 0;
  let meanSquareError = 0;
  let ofTolerance = 0;
  let worst = "";
  for (const comparison of comparisons) {
    const found = errorsOf(comparison);
    maxError = largerOrNaN(maxError, found.maxError);
    meanSquareError = largerOrNaN(meanSquareError, found.meanSquareError);
    if (!(found.ofTolerance <= ofTolerance)) worst = comparison.tensor;
    ofTolerance = largerOrNaN(ofTolerance, found.ofTolerance);
  }
  const errors = { against, maxError, meanSquareError, ofTolerance, worst };
  return ofTolerance <= 1 ? { ok: true, ...errors } : { ok: false, ...errors };
}

function errorsOf({ got, truth, bounds }: Comparison) {
  if (got.length !== truth.length) return { maxError: NaN, meanSquareError: NaN, ofTolerance: NaN };
  let maxError = 0;
  let ofTolerance = 0;
  let squares = 0;
  let energy = 0;
  for (let n = 0; n < truth.length; n++) {
    const want = truth[n];
    // Equal infinities are no error: lse of a row that sees nothing.
    const error = Object.is(got[n], want) ? 0 : Math.abs(got[n] - want);
    maxError = largerOrNaN(maxError, error);
    if (error === 0) continue;
    ofTolerance = largerOrNaN(ofTolerance, error / (bounds.relative * Math.abs(want) + bounds.absolute));
    squares += error * error;
  }
  for (let n = 0; n < truth.length; n++) if (Number.isFinite(truth[n])) energy += truth[n] ** 2;
  const meanSquareError = squares === 0 ? 0 : squares / energy;
  return { maxError, meanSquareError, ofTolerance: largerOrNaN(ofTolerance, meanSquareError / bounds.meanSquare) };
}

/** Math.max, but spelled out because NaN must win whichever side it comes from. */
function largerOrNaN(a: number, b: number): number {
  return Number.isNaN(a) || b <= a ? a : b;
}

/** Multiplications and additions that one verification may take: half a second in JavaScript, a row in 64 at S 4096. */
const VERIFY_FLOPS = 6e8;
/** Fewer rows than this a head would prove little. */
const LEAST_ROWS = 32;

/** Query rows to check, from the first to the last: all of them, or as many as are affordable over all heads. */
export function rowsToCheck({ B, H, Sq, Skv, D, Dv }: AttentionProblem): number[] {
  const affordable = Math.floor(VERIFY_FLOPS / (2 * (D + Dv) * B * H * Math.max(Skv, 1)));
  return spread(Math.max(affordable, LEAST_ROWS), Sq);
}

/** So many heads prove enough, where all of them are not affordable. */
const MOST_HEADS = 8;

/** Query heads to check, counted over the whole batch, from the first to the last. */
export function headsToCheck(problem: AttentionProblem): number[] {
  const { B, H, Skv, D, Dv, program } = problem;
  const heads = B * H;
  const affordable = 2 * (D + Dv) * heads * rowsToCheck(problem).length * Skv <= VERIFY_FLOPS;
  const isMovable = program.every(({ kind }) => MOVABLE_TO_A_HEAD.includes(kind)) && !step(program, "visibility")?.mask;
  return spread(affordable || !isMovable ? heads : MOST_HEADS, heads);
}

/** So many of the numbers below `size`, evenly from the first to the last; all of them, if there are no more. */
function spread(count: number, size: number): number[] {
  if (count >= size) return Array.from({ length: size }, (_, n) => n);
  return Array.from({ length: count }, (_, n) => Math.round((n * (size - 1)) / (count - 1)));
}

/** Steps that a head standing alone has as among others; a mask would not be. */
const MOVABLE_TO_A_HEAD: readonly string[] = ["scale", "softcap", "visibility"];

/**
 * The definition of attention in float64, for some query rows of every head.
 * @param rows ascending
 * @param round as `naiveAttention` takes it
 * @returns out [B, H, rows, Dv] and lse [B, H, rows], layout "bhsd"
 */
export function attentionAtRows(
  problem: AttentionProblem,
  data: AttentionData,
  rows: readonly number[],
  round?: (x: number) => number,
): AttentionNumbers {
  const { Sq, Dv } = problem;
  const wanted = new Set(rows);
  const { out, lse } = naiveAttention(problem, data, round, (_b, _h, i) => wanted.has(i));
  return { out: takeRows(out, Sq, Dv, rows), lse: takeRows(lse, Sq, 1, rows) };
}

/** Some rows of every head of [heads, Sq, width]. */
export function takeRows(values: Float64Array, Sq: number, width: number, rows: readonly number[]): Float64Array {
  if (rows.length === Sq) return values;
  const heads = values.length / (Sq * width);
  const taken = new Float64Array(heads * rows.length * width);
  for (let head = 0; head < heads; head++) {
    rows.forEach((i, n) => {
      const at = (head * Sq + i) * width;
      taken.set(values.subarray(at, at + width), (head * rows.length + n) * width);
    });
  }
  return taken;
}

/** A backward pass in float64 costs five products a pair: the query heads of this many key heads prove enough. */
const KEY_HEADS_TO_CHECK = 2;

/** Multiplications and additions of the definition in JavaScript, about; rounding every step to a half type costs as much again. */
const FLOPS_A_MS = 1e6;

/** Milliseconds that checking a backward pass takes, about; a forward is checked in half a second. */
export function backwardCheckMs(problem: AttentionProblem): number {
  const { B, Hkv, dtype } = problem;
  const share = Math.min(KEY_HEADS_TO_CHECK / (B * Hkv), 1);
  return ((countFlops(problem) * share) / FLOPS_A_MS) * (dtype === "float32" ? 1 : 2);
}

export interface SomeHeads {
  /** Whether query head h of batch b is checked. */
  readonly takes: (b: number, h: number) => boolean;
  /** Their part of q, k, v or dout, layout "bhsd": a key head's query heads lie together, so that all are cut alike. */
  readonly take: (whole: Float64Array) => Float64Array;
  readonly which: string;
}

/** The first key head of the first batch and the last of the last with their query heads; all, where there are no more. */
export function backwardHeads({ B, H, Hkv }: AttentionProblem): SomeHeads {
  if (B * Hkv <= KEY_HEADS_TO_CHECK) return { takes: () => true, take: (whole) => whole, which: "all heads" };
  const group = H / Hkv;
  const last = B * Hkv - 1;
  const isTaken = (keyHead: number): boolean => keyHead === 0 || keyHead === last;
  return {
    takes: (b, h) => isTaken(b * Hkv + Math.floor(h / group)),
    take(whole) {
      const part = whole.length / (B * Hkv);
      const taken = new Float64Array(KEY_HEADS_TO_CHECK * part);
      taken.set(whole.subarray(0, part));
      taken.set(whole.subarray(last * part), part);
      return taken;
    },
    which:
      group === 1
        ? `the first and the last of ${B * H} heads`
        : `query heads of the first and the last of ${B * Hkv} key heads`,
  };
}
