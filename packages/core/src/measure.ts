import type { Backend, DeviceBuffer } from "./backend.ts";
import { bytesPerElement, checkDType, decode, encode, type FloatDType } from "./dtype.ts";
import { plan, type KernelRow } from "./plan.ts";
import { philox4x32 } from "./philox.ts";
import {
  attentionProblem,
  checkOptions,
  countFlops,
  mustHold,
  outShape,
  OPTION_TENSORS,
  type AttentionOptionsOf,
  type AttentionProblem,
} from "./problem.ts";
import { elementsOf } from "./tensor.ts";

/** A problem to time candidates on: sizes and the options that need no tensor. */
export interface MeasuredProblem {
  readonly B?: number | undefined;
  readonly H?: number | undefined;
  readonly Hkv?: number | undefined;
  readonly Sq?: number | undefined;
  readonly Skv?: number | undefined;
  readonly D?: number | undefined;
  readonly Dv?: number | undefined;
  readonly dtype?: FloatDType | undefined;
  readonly options?: AttentionOptionsOf<never> | undefined;
}

export type Measurement =
  | { readonly ok: true; readonly ms: number; readonly out: Float32Array }
  | { readonly ok: false; readonly reason: string };

export interface MeasureOptions {
  /** Rows to choose from, if not all of the back end's. */
  readonly kernels?: readonly KernelRow[] | undefined;
  /** About how long the problem is timed for. Default 100; 0 times one call. */
  readonly budgetMs?: number | undefined;
}

/** One problem is timed for at most about this long. */
const BUDGET_MS = 100;
const MAX_REPEATS = 20;
/** A problem of fewer operations is not worth a smaller one before it: 1 to 20 ms even of a back end in plain JavaScript. */
const SMALL_FLOPS = 2e6;
/** Candidates may differ by rounding only: half types round P and out once each. */
const TOLERANCE: Readonly<Record<FloatDType, number>> = {
  float32: 1e-4,
  float16: 4e-3,
  bfloat16: 3e-2,
  float8e4m3: 1.5e-1,
};

/**
 * Validates a problem to time candidates on, before any of them is opened.
 * @throws FaError FA_OPTION, FA_SHAPE, FA_DTYPE or FA_UNSUPPORTED
 */
export function measuredProblem(measured: MeasuredProblem = {}): AttentionProblem {
  const where = "createAttention";
  checkOptions(where, measured, ["B", "H", "Hkv", "Sq", "Skv", "D", "Dv", "dtype", "options"], "problem");
  const { B = 1, H = 4, Hkv = H, Sq = 256, Skv = Sq, D = 64, Dv = D, dtype = "float32", options = {} } = measured;
  for (const [name, size] of Object.entries({ B, H, Hkv, Sq, Skv, D, Dv })) {
    const fix = "Leave it out for the default.";
    mustHold(Number.isSafeInteger(size) && size >= 0, where, `problem.${name}`, "an integer from 0", size, fix);
  }
  checkDType(`${where}(problem.dtype)`, dtype);
  for (const name of OPTION_TENSORS) {
    const fix = "Measure without it: there is no instance yet to make it on.";
    const given = (options as Readonly<Record<string, unknown>> | null)?.[name];
    mustHold(given === undefined, where, `problem.options.${name}`, "left out", given, fix);
  }
  const shape = (heads: number, rows: number, dim: number): number[] =>
    options?.layout === "bshd" ? [B, rows, heads, dim] : [B, heads, rows, dim];
  const inputs = {
    q: { shape: shape(H, Sq, D), dtype },
    k: { shape: shape(Hkv, Skv, D), dtype },
    v: { shape: shape(Hkv, Skv, Dv), dtype },
  };
  return attentionProblem(inputs, options);
}

/**
 * The problem in ever larger parts of itself, from one of few operations to the whole: half the batch, the key heads with their
 * groups or the longer of the sequences each.
 */
export function measuredLadder(measured: MeasuredProblem = {}): readonly AttentionProblem[] {
  const ladder = [measuredProblem(measured)];
  for (let [problem] = ladder; countFlops(problem) > SMALL_FLOPS && canBeHalved(problem); [problem] = ladder) {
    ladder.unshift(measuredProblem({ ...measured, ...halved(problem) }));
  }
  return ladder;
}

const canBeHalved = ({ B, Hkv, Sq, Skv }: AttentionProblem): boolean => Math.max(B, Hkv, Sq, Skv) > 1;

function halved({ B, H, Hkv, Sq, Skv }: AttentionProblem): MeasuredProblem {
  const sizes = { B, H, Hkv, Sq, Skv };
  const half = (size: number): number => Math.ceil(size / 2);
  if (B > 1) return { ...sizes, B: half(B) };
  if (Hkv > 1) return { ...sizes, Hkv: half(Hkv), H: (half(Hkv) * H) / Hkv };
  return Skv >= Sq ? { ...sizes, Skv: half(Skv) } : { ...sizes, Sq: half(Sq) };
}

/**
 * Times one open back end on the last of `ladder`, and where that would take long, on as large a part of it as does not: then
 * `ms` is what the whole would take at that rate, and `part` says how much of it was timed. Never throws.
 * @param expected results by the places in `ladder`: compared with where there is one, else filled in
 */
export async function measureUpTo(
  backend: Backend,
  ladder: readonly AttentionProblem[],
  expected: (Float32Array | undefined)[],
): Promise<Measurement & { readonly part?: number }> {
  const last = ladder.length - 1;
  const whole = countFlops(ladder[last]);
  let place = 0;
  for (;;) {
    const measured = await measure(backend, ladder[place], expected[place], {
      budgetMs: place === last ? BUDGET_MS : 0,
    });
    if (!measured.ok) return measured;
    expected[place] ??= measured.out;
    if (place === last) return measured;
    const flopsPerMs = countFlops(ladder[place]) / measured.ms;
    const affordable = ladder.findLastIndex((problem) => countFlops(problem) / flopsPerMs <= BUDGET_MS);
    if (affordable <= place) return { ...measured, ms: whole / flopsPerMs, part: countFlops(ladder[place]) / whole };
    place = affordable;
  }
}

/**
 * Times one open back end on a problem, with inputs that are the same for all: the fastest of several calls, after one that is
 * checked against `expected`. Never throws.
 */
export async function measure(
  backend: Backend,
  problem: AttentionProblem,
  expected: Float32Array | undefined,
  { kernels = backend.kernels, budgetMs = BUDGET_MS }: MeasureOptions = {},
): Promise<Measurement> {
  const { B, H, Hkv, Sq, Skv, D, Dv, dtype } = problem;
  const planned = plan(problem, backend.capabilities, kernels);
  if (!planned.ok) return { ok: false, reason: planned.reasons.map(({ reason }) => reason).join("; ") };
  const bindings: Record<string, DeviceBuffer> = {};
  try {
    const elements = { q: B * H * Sq * D, k: B * Hkv * Skv * D, v: B * Hkv * Skv * Dv };
    for (const [n, [name, count]] of Object.entries(elements).entries()) {
      const bytes = encode(dtype, noise(count, n));
      bindings[name] = backend.allocate(bytes.byteLength, bytes);
    }
    bindings.out = backend.allocate(elementsOf(outShape(problem)) * bytesPerElement(problem.resultDType));
    await backend.run(planned, bindings);
    const result = Float32Array.from(decode(problem.resultDType, await backend.read(bindings.out)));
    const off = largestDifference(result, expected ?? result);
    if (!(off <= TOLERANCE[dtype])) return { ok: false, reason: `its result is off by ${off.toExponential(1)}` };
    let ms = Infinity;
    const deadline = performance.now() + budgetMs;
    for (let repeat = 0; repeat < MAX_REPEATS && (repeat === 0 || performance.now() < deadline); repeat++) {
      const start = performance.now();
      await backend.run(planned, bindings);
      await backend.sync();
      ms = Math.min(ms, performance.now() - start);
    }
    return { ok: true, ms, out: result };
  } catch (error) {
    return { ok: false, reason: error instanceof Error ? error.message : String(error) };
  } finally {
    for (const buffer of Object.values(bindings)) backend.free(buffer);
  }
}

/** A prime, so that no two rows of equal length are the same for long. */
const NOISE_PERIOD = 65_521;

/** Numbers in [-1, 1), the same on every machine. */
function noise(elements: number, stream: number): Float32Array {
  const values = new Float32Array(elements);
  const words = new Uint32Array(4);
  for (let n = 0; n < Math.min(elements, NOISE_PERIOD); n++) {
    if (n % 4 === 0) philox4x32([n / 4, stream, 0, 0], [0, 0], undefined, words);
    values[n] = words[n % 4] / 2 ** 31 - 1;
  }
  for (let n = NOISE_PERIOD; n < elements; n += NOISE_PERIOD) {
    values.set(values.subarray(0, Math.min(NOISE_PERIOD, elements - n)), n);
  }
  return values;
}

function largestDifference(a: Float32Array, b: Float32Array): number {
  let largest = 0;
  for (let n = 0; n < a.length; n++) {
    const difference = Math.abs(a[n] - b[n]);
    if (Number.isNaN(difference)) return NaN;
    if (difference > largest) largest = difference;
  }
  return largest;
}
