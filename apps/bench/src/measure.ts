import { quantile } from "./numbers.ts";

/** Times of one call, in milliseconds of wall clock, each with the device synchronised. */
export interface Timing {
  readonly medianMs: number;
  /** Quartiles: half of the samples lie between them. */
  readonly lowMs: number;
  readonly highMs: number;
  /** The very first call: compiling and warming included. */
  readonly firstMs: number;
  /** Samples taken, each the mean of `callsPerSample` calls. */
  readonly samples: number;
  readonly callsPerSample: number;
}

export interface MeasureOptions {
  /** What the samples together may take, about; warming up may take a quarter more. */
  readonly budgetMs: number;
  /** Between samples, outside the clock: where to let others run, and where to throw to stop. */
  readonly breathe: () => Promise<void>;
}

export const LEAST_SAMPLES = 3;
const MOST_SAMPLES = 100;
/** Shorter than this and the clock's own grain shows, most of all in browsers. */
const SAMPLE_MS = 2;

/**
 * Times calls of an operation that was already called once.
 * @param call enqueues the work and frees its results
 * @param sync resolves when all work is done
 */
export async function measure(
  call: () => Promise<void>,
  sync: () => Promise<void>,
  firstMs: number,
  { budgetMs, breathe }: MeasureOptions,
): Promise<Timing> {
  const sample = async (calls: number): Promise<number> => {
    await breathe();
    const start = performance.now();
    for (let n = 0; n < calls; n++) await call();
    await sync();
    return (performance.now() - start) / calls;
  };
  const warmUntil = performance.now() + budgetMs / 4;
  let warmMs = firstMs;
  while (performance.now() + warmMs < warmUntil) warmMs = Math.min(warmMs, await sample(1));
  const callsPerSample = Math.max(1, Math.ceil(SAMPLE_MS / warmMs));
  const times: number[] = [];
  const until = performance.now() + budgetMs;
  while (times.length < LEAST_SAMPLES || (times.length < MOST_SAMPLES && performance.now() < until)) {
    times.push(await sample(callsPerSample));
  }
  times.sort((a, b) => a - b);
  return {
    medianMs: quantile(times, 0.5),
    lowMs: quantile(times, 0.25),
    highMs: quantile(times, 0.75),
    firstMs,
    samples: times.length,
    callsPerSample,
  };
}
