import { clockGrainMs, FaError } from "@fa/core";
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
  /** What it steps by. */
  readonly grainMs: number;
  /** @returns milliseconds of all the calls together; 0 where that is less than it shows */
  time(calls: number): Promise<number>;
}

/** A sample lasts so many steps of the clock at least. */
const LEAST_GRAINS = 20;

/**
 * @param call enqueues the work and frees its results
 * @param sync resolves when all work is done
 */
export function wallClock(call: () => Promise<void>, sync: () => Promise<void>): Clock {
  const grainMs = clockGrainMs();
  return {
    timer: "wall",
    // In pages that are not cross-origin isolated it steps by 0.1 to 1 ms.
    sampleMs: Math.max(2, LEAST_GRAINS * grainMs),
    grainMs,
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
  /** Calls go on for so long before those that count, about; there is one in any case, for the first tells nothing. */
  readonly warmMs: number;
  /** What the samples together may take, about. */
  readonly budgetMs: number;
  /** Between samples, outside the clock: where to let others run, and where to throw to stop. */
  readonly breathe: () => Promise<void>;
}

export const LEAST_SAMPLES = 3;
const MOST_SAMPLES = 100;

/**
 * Times calls of an operation that was already called once.
 * @throws FaError FA_BACKEND when the clock stands still
 */
export async function measure(clock: Clock, options: MeasureOptions): Promise<Timing> {
  const { firstMs, warmMs, budgetMs, breathe } = options;
  const time = async (calls: number): Promise<number> => {
    await breathe();
    return clock.time(calls);
  };
  const warmUntil = performance.now() + warmMs;
  let callMs = await time(1);
  let warmUpCalls = 1;
  for (; performance.now() + callMs < warmUntil; warmUpCalls++) callMs = Math.min(callMs, await time(1));
  let callsPerSample = Math.max(1, Math.ceil(clock.sampleMs / Math.max(callMs, clock.grainMs)));
  // What one call takes, a coarse clock does not show: there may have to be more of them than it seemed.
  if (callsPerSample > 1) {
    const seeUntil = performance.now() + budgetMs;
    for (;;) {
      const ms = await time(callsPerSample);
      warmUpCalls += callsPerSample;
      if (ms >= clock.sampleMs / 2 || (ms > 0 && performance.now() > seeUntil)) break;
      if (performance.now() > seeUntil + MOST_BLIND_MS) {
        throw new FaError(
          "FA_BACKEND",
          "the clock must move while calls run; it stands still. It cannot time anything.",
        );
      }
      callsPerSample *= 2;
    }
  }
  const times: number[] = [];
  const until = performance.now() + budgetMs;
  while (times.length < LEAST_SAMPLES || (times.length < MOST_SAMPLES && performance.now() < until)) {
    times.push((await time(callsPerSample)) / callsPerSample);
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

/** After so long beside its budget, calls that show no time will never show any. */
const MOST_BLIND_MS = 5000;
