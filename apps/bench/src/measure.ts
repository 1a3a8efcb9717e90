import { quantile } from "./numbers.ts";

/** What tells the time of a call, and how. */
export const TIMERS = {
  wall: "wall clock; the device is waited for after each sample",
  chains: "wall clock; a call is what a chain of calls takes longer by each of its calls",
  gpu: "GPU timestamps before and after the calls of a sample",
} as const;
export type TimerName = keyof typeof TIMERS;

/** Times of one call, in milliseconds. */
export interface Timing {
  readonly medianMs: number;
  /** Quartiles: half of the samples lie between them. */
  readonly lowMs: number;
  readonly highMs: number;
  /** The very first call, by the wall clock: compiling and warming included. In no other number. */
  readonly firstMs: number;
  /** Samples taken, each the mean of `callsPerSample` calls. */
  readonly samples: number;
  readonly callsPerSample: number;
  readonly timer: TimerName;
  /** Calls after the first and before those that count; left out where nobody counted them. */
  readonly warmUpCalls?: number | undefined;
  /** Copies of the inputs that calls took in turn, so that caches held none; left out or 1: the same every call. */
  readonly inputSets?: number | undefined;
}

/** A way to time calls. */
export interface Clock {
  readonly timer: TimerName;
  /** Samples last so long at least, or the clock's own grain shows. */
  readonly sampleMs: number;
  /** @returns milliseconds of all the calls together */
  time(calls: number): Promise<number>;
}

/**
 * @param call enqueues the work and frees its results
 * @param sync resolves when all work is done
 */
export function wallClock(call: () => Promise<void>, sync: () => Promise<void>): Clock {
  return {
    timer: "wall",
    // Most of all in browsers.
    sampleMs: 2,
    async time(calls) {
      const start = performance.now();
      for (let n = 0; n < calls; n++) await call();
      await sync();
      return performance.now() - start;
    },
  };
}

export interface MeasureOptions {
  /** Milliseconds of the first call. */
  readonly firstMs: number;
  /** What the samples together may take, about; warming up may take a quarter more. */
  readonly budgetMs: number;
  /** Between samples, outside the clock: where to let others run, and where to throw to stop. */
  readonly breathe: () => Promise<void>;
}

export const LEAST_SAMPLES = 3;
const MOST_SAMPLES = 100;

/** Times calls of an operation that was already called once. */
export async function measure(clock: Clock, { firstMs, budgetMs, breathe }: MeasureOptions): Promise<Timing> {
  const sample = async (calls: number): Promise<number> => {
    await breathe();
    return (await clock.time(calls)) / calls;
  };
  const warmUntil = performance.now() + budgetMs / 4;
  let warmMs = firstMs;
  let warmUpCalls = 0;
  for (; performance.now() + warmMs < warmUntil; warmUpCalls++) warmMs = Math.min(warmMs, await sample(1));
  const callsPerSample = Math.max(1, Math.ceil(clock.sampleMs / Math.max(warmMs, GRAIN_MS)));
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
    timer: clock.timer,
    warmUpCalls,
  };
}

/** A call that shows shorter than this shows nothing: clocks have grains. */
const GRAIN_MS = 1e-3;
