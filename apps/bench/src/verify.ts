/**
 * Nothing is timed, drawn or written down that did not pass here. Both gates of the project: every element, and the
 * normalised mean square error of the whole, always as `!(error <= bound)` so that NaN fails.
 */
import { roundTo, step, type AttentionProblem, type FloatDType } from "@fa/core";
import { naiveAttention, type AttentionData, type AttentionNumbers } from "@fa/core/reference";

/** How far a result is from the truth. */
export interface Verification {
  readonly ok: boolean;
  /** What it was compared with: "float64 reference, 16 of 4096 rows a head". */
  readonly against: string;
  /** Largest absolute error over all tensors; NaN if some element is NaN. */
  readonly maxError: number;
  /** Largest normalised mean square error of a tensor. */
  readonly meanSquareError: number;
  /** Largest error as a share of what it may be: above 1 is wrong. */
  readonly ofTolerance: number;
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
  return { ok: ofTolerance <= 1, against, maxError, meanSquareError, ofTolerance, worst };
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
export function rowsToCheck({ B, H, Sq, Skv, D, Dv, program }: AttentionProblem): number[] {
  const affordable = Math.floor(VERIFY_FLOPS / (2 * (D + Dv) * B * H * Math.max(Skv, 1)));
  return spread(program.every(({ kind }) => SAME_FOR_A_ROW.includes(kind)) ? Math.max(affordable, LEAST_ROWS) : Sq, Sq);
}

/** So many heads prove enough, where all of them are not affordable. */
const MOST_HEADS = 16;

/** Query heads to check, counted over the whole batch, from the first to the last. */
export function headsToCheck(problem: AttentionProblem): number[] {
  const { B, H, Skv, D, Dv, program } = problem;
  const heads = B * H;
  const affordable = 2 * (D + Dv) * heads * rowsToCheck(problem).length * Skv <= VERIFY_FLOPS;
  const alike = program.every(({ kind }) => MOVABLE_TO_A_HEAD.includes(kind));
  return spread(affordable || !alike ? heads : MOST_HEADS, heads);
}

/** So many of the numbers below `size`, evenly from the first to the last; all of them, if there are no more. */
function spread(count: number, size: number): number[] {
  if (count >= size) return Array.from({ length: size }, (_, n) => n);
  return Array.from({ length: count }, (_, n) => Math.round((n * (size - 1)) / (count - 1)));
}

/** Steps of a score program that can be moved to a row standing alone. */
const SAME_FOR_A_ROW: readonly string[] = ["scale", "softcap", "visibility", "sinks"];
/** Steps that a head standing alone has as among others; a mask would not be, but the cases here have none. */
const MOVABLE_TO_A_HEAD: readonly string[] = ["scale", "softcap", "visibility"];

/**
 * The definition of attention in float64, for some query rows of every head: each row as a problem of its own with
 * Sq = 1, whose band is moved to where the row stands.
 * @param rows ascending; all of them, where the program depends on more than the band
 * @param round as `naiveAttention` takes it
 * @returns out [B, H, rows, Dv] and lse [B, H, rows], layout "bhsd"
 */
export function attentionAtRows(
  problem: AttentionProblem,
  data: AttentionData,
  rows: readonly number[],
  round?: (x: number) => number,
): AttentionNumbers {
  const { B, H, Sq, D, Dv, program } = problem;
  if (rows.length === Sq) return naiveAttention(problem, data, round);
  const visibility = step(program, "visibility");
  const out = new Float64Array(B * H * rows.length * Dv);
  const lse = new Float64Array(B * H * rows.length);
  rows.forEach((i, n) => {
    const alone: AttentionProblem = {
      ...problem,
      Sq: 1,
      program: program.map((s) => {
        if (s !== visibility) return s;
        return { ...visibility, band: { lo: visibility.band.lo + i, hi: visibility.band.hi + i } };
      }),
    };
    const one = naiveAttention(alone, { ...data, q: takeRows(data.q, Sq, D, [i]) }, round);
    for (let head = 0; head < B * H; head++) {
      out.set(one.out.subarray(head * Dv, (head + 1) * Dv), (head * rows.length + n) * Dv);
      lse[head * rows.length + n] = one.lse[head]!;
    }
  });
  return { out, lse };
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

/** A backward pass in float64 costs five products a pair: this many heads of it prove enough. */
const HEADS_TO_CHECK = 2;

export interface HeadsAlone {
  /** The problem of these heads alone. */
  readonly alone: AttentionProblem;
  /** Their part of a tensor of the whole, layout "bhsd". */
  readonly take: (whole: Float64Array) => Float64Array;
  readonly which: string;
}

/** The first and the last head of one batch as a problem of their own; all heads, where the program tells them apart. */
export function backwardHeads(problem: AttentionProblem): HeadsAlone {
  const { B, H, Hkv, program } = problem;
  const alike = program.every(({ kind }) => SAME_FOR_A_HEAD.includes(kind));
  if (B !== 1 || H !== Hkv || H <= HEADS_TO_CHECK || !alike) {
    return { alone: problem, take: (whole) => whole, which: "all heads" };
  }
  return {
    alone: { ...problem, H: HEADS_TO_CHECK, Hkv: HEADS_TO_CHECK },
    take(whole) {
      const head = whole.length / H;
      const taken = new Float64Array(HEADS_TO_CHECK * head);
      taken.set(whole.subarray(0, head));
      taken.set(whole.subarray((H - 1) * head), head);
      return taken;
    },
    which: `the first and the last of ${H} heads`,
  };
}

/** Steps that every head has alike; a mask may differ, but its cases here have none. */
const SAME_FOR_A_HEAD: readonly string[] = ["scale", "softcap"];
