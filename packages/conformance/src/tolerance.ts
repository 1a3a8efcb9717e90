import { roundTo, type FloatDType } from "@fa/core";

/** What a comparison found: how far off, and whether that is within the rule. */
export interface Comparison {
  readonly ok: boolean;
  /** In one line: how many elements, how far, against what bound. */
  readonly text: string;
}

/** Normalised mean square error that a whole tensor may have; it sees the bias that elementwise bounds let through. */
const MEAN_SQUARE: Readonly<Record<FloatDType, number>> = {
  float32: 1e-10,
  float16: 1e-6,
  bfloat16: 1e-4,
  float8e4m3: 1e-2,
};

/** Below this many elements a mean square says nothing that the elementwise bound does not. */
const FEWEST_FOR_MEAN = 64;

/** Elementwise bound for float32: relative to the element, absolute, and a share of the largest value for sums of many terms. */
const FLOAT32 = { relative: 1e-5, absolute: 1e-6, ofLargest: { value: 1e-6, gradient: 4e-6 } };

/** Half types may err by this many times what naive attention in the same type errs by. */
const TIMES_NAIVE = { value: 2, gradient: 3 };

export interface Expected {
  /** float64 truth. */
  readonly truth: ArrayLike<number>;
  /** The same by naive attention that rounds every array it stores to the dtype; only half types need it. */
  readonly naive?: ArrayLike<number> | undefined;
  readonly kind: "value" | "gradient";
  readonly dtype: FloatDType;
  /**
   * Of how many rows' parts each element is a sum: default 1. Parts are rounded each for itself, so that where they cancel, the
   * error grows with the square root of their number, and the absolute bound of float32 with it.
   */
  readonly parts?: number | undefined;
  /**
   * What the kernel rounds scores to, float32 unless it says otherwise. Products of 16 features each are rounded on their way to
   * a score, where naive attention in that type rounds a score once; and the largest scores make lse.
   */
  readonly scores?: FloatDType | undefined;
}

/** Of lse, relative to it or to 1, for scores that are rounded to a type: 4 times what rounding once costs. */
const SCORES: Readonly<Partial<Record<FloatDType, number>>> = { float16: 2 ** -9 };
/** Of a half type: so many times more it may err than others may. Scores of 64 features are rounded 4 times, which errs twice as much as once. */
const TIMES_ROUNDED = 2;

/**
 * Compares a result with the truth by both gates: elementwise, and normalised mean square error. Every comparison is
 * `!(error <= bound)`, so that NaN fails. Where the truth is infinite the result must be the same infinity, and where it
 * is NaN, NaN.
 */
export function compare(
  got: ArrayLike<number>,
  { truth, naive, kind, dtype, parts = 1, scores = "float32" }: Expected,
): Comparison {
  const ofScores = SCORES[scores] ?? 0;
  const timesNaive = TIMES_NAIVE[kind] * (ofScores > 0 ? TIMES_ROUNDED : 1);
  if (got.length !== truth.length) return { ok: false, text: `${got.length} elements instead of ${truth.length}` };
  const largest = largestFinite(truth);
  const halfBound = dtype === "float32" ? 0 : boundOfHalf(truth, naive ?? truth, timesNaive, dtype);
  let off = 0;
  let worst = { excess: -Infinity, n: 0, error: 0, bound: 0 };
  let squares = 0;
  let reference = 0;
  for (let n = 0; n < truth.length; n++) {
    const want = truth[n];
    const value = got[n];
    if (!Number.isFinite(want)) {
      if (!Object.is(value, want)) {
        off++;
        worst = { excess: Infinity, n, error: NaN, bound: 0 };
      }
      continue;
    }
    const error = Math.abs(value - want);
    const float32Bound =
      FLOAT32.relative * Math.abs(want) +
      FLOAT32.absolute * Math.sqrt(parts) +
      FLOAT32.ofLargest[kind] * largest +
      ofScores * Math.max(1, Math.abs(want));
    const bound = dtype === "float32" ? float32Bound : halfBound;
    if (!(error <= bound)) off++;
    const excess = Number.isNaN(error) ? Infinity : error / bound;
    if (excess > worst.excess) worst = { excess, n, error, bound };
    squares += error * error;
    reference += want * want;
  }
  // A truth that is zero to rounding has no energy to normalise by: there the elementwise bound alone decides.
  const energy = truth.length >= FEWEST_FOR_MEAN && reference > truth.length * 1e-12 ? reference : Infinity;
  const meanSquare = squares / energy;
  // Where terms cancel, out rounded to a half type before the backward pass costs more than the gate, in naive attention too.
  const naiveSquare = naive ? (timesNaive ** 2 * squaredError(naive, truth)) / energy : 0;
  const gate = Math.max(MEAN_SQUARE[dtype], MEAN_SQUARE[scores], naiveSquare);
  const ok = off === 0 && meanSquare <= gate;
  const { n, error, bound } = worst;
  const text =
    `${off} of ${truth.length} elements off; worst at ${n}: got ${got[n]}, expected ${truth[n]}, ` +
    `error ${error.toExponential(1)} of ${bound.toExponential(1)}; mean square error ${meanSquare.toExponential(1)}`;
  return { ok, text };
}

function squaredError(values: ArrayLike<number>, truth: ArrayLike<number>): number {
  let squares = 0;
  for (let n = 0; n < truth.length; n++) {
    if (Number.isFinite(truth[n])) squares += (values[n] - truth[n]) ** 2;
  }
  return squares;
}

function largestFinite(values: ArrayLike<number>): number {
  let largest = 0;
  for (let n = 0; n < values.length; n++) {
    const size = Math.abs(values[n]);
    if (size < Infinity && size > largest) largest = size;
  }
  return largest;
}

/** The rule of FlashAttention's own tests: twice the naive error, plus twice what adding and taking away 0.3 costs. */
function boundOfHalf(
  truth: ArrayLike<number>,
  naive: ArrayLike<number>,
  timesNaive: number,
  dtype: FloatDType,
): number {
  const round = (x: number): number => roundTo(dtype, x);
  let naiveError = 0;
  let grain = 0;
  for (let n = 0; n < truth.length; n++) {
    const want = truth[n];
    if (!Number.isFinite(want)) continue;
    const error = Math.abs(naive[n] - want);
    if (error > naiveError) naiveError = error;
    const stored = round(want);
    grain = Math.max(grain, Math.abs(round(round(stored + 0.3) - 0.3) - stored));
  }
  return timesNaive * naiveError + 2 * grain;
}
