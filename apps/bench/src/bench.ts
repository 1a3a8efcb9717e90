import { FaError, type Attention } from "@fa/core";
import type { Case } from "./cases.ts";
import { measure, wallClock, LEAST_SAMPLES, type Clock } from "./measure.ts";
import type { Outcome } from "./results.ts";
import { place } from "./place.ts";
import type { Results, Subject } from "./subject.ts";
import { backwardCheckMs } from "./verify.ts";

/** No case may take more than this share of the budget, so that a slow one leaves time for others and Ctrl-C is heard. */
const MOST_OF_BUDGET = 1 / 4;

/** A GPU that idled, while a result was verified, is several times slower: it is kept busy for this long first. */
const WARM_ALL_ALONG: readonly string[] = ["cuda", "webgpu"];
const MOST_WARM_MS = 500;

export interface BenchOptions {
  /** A fresh instance of the back end: each case has its own, so that memory is the case's and a lost device costs one. */
  readonly open: () => Promise<Attention>;
  /** Tells what a device itself takes for commands that are recorded, where it has a clock; else the wall's is looked at. */
  readonly deviceTimer?: ((fa: Attention) => DeviceTimer | undefined) | undefined;
  /** What all cases together may take. One that would take too much of it is skipped, and says so. */
  readonly budgetMs: number;
  /** What the samples of one case may take. */
  readonly sampleMs: number;
  readonly signal: AbortSignal;
}

export interface DeviceTimer {
  /** Milliseconds on the device from the begin of what is recorded to its end. */
  time(record: (encoder: unknown) => void): Promise<number>;
  /** As of `Clock`. */
  readonly sampleMs: number;
  readonly grainMs: number;
}

/**
 * Runs the cases in order: each is verified, and only then timed. Yields one outcome a case.
 * @throws the signal's reason, between two calls, once it is aborted
 */
export async function* bench(
  cases: readonly Case[],
  { open, deviceTimer, budgetMs, sampleMs, signal }: BenchOptions,
): AsyncGenerator<Outcome> {
  /** The best rate so far tells how long the next case will take. */
  let flopsPerMs = 0;
  const start = performance.now();

  /** Lets timers and signals through: calls that compute on this thread leave them no other moment. */
  const breathe = async (): Promise<void> => {
    await new Promise((resolve) => setTimeout(resolve));
    signal.throwIfAborted();
  };

  for (const item of cases) {
    const { facts } = item;
    await breathe();
    const callMs = flopsPerMs > 0 ? facts.flops / flopsPerMs : 0;
    const neededMs = callMs * (2 + LEAST_SAMPLES) + checkMs(item);
    const leftMs = Math.max(budgetMs - (performance.now() - start), 0);
    const budget = `the budget of ${budgetMs / 1000} s`;
    if (neededMs > budgetMs * MOST_OF_BUDGET) {
      yield { ...facts, outcome: "skipped", reason: `needs ${seconds(neededMs)}, over a quarter of ${budget}` };
      continue;
    }
    if (neededMs > leftMs) {
      yield {
        ...facts,
        outcome: "skipped",
        reason: `needs ${seconds(neededMs)}, ${seconds(leftMs)} left of ${budget}`,
      };
      continue;
    }
    const outcome = await runCase(item, { open, deviceTimer, breathe, sampleMs });
    if (outcome.outcome === "measured") flopsPerMs = Math.max(flopsPerMs, facts.flops / outcome.timing.medianMs);
    yield outcome;
  }
}

/** How long checking takes, where that is long: nothing is heard meanwhile, not even Ctrl-C. */
function checkMs(item: Case): number {
  return item.kind === "attention" && item.facts.pass === "backward" ? backwardCheckMs(item.problem) : 0;
}

interface CaseOptions extends Pick<BenchOptions, "open" | "deviceTimer" | "sampleMs"> {
  readonly breathe: () => Promise<void>;
}

async function runCase(item: Case, { open, deviceTimer, breathe, sampleMs }: CaseOptions): Promise<Outcome> {
  const { facts } = item;
  try {
    await using fa = await open();
    const placed = await place(fa, item);
    await breathe();
    const start = performance.now();
    const results = await placed.call();
    await fa.sync();
    const firstMs = performance.now() - start;
    await breathe();
    const verification = await placed.verify(results);
    results.dispose();
    if (!verification.ok) return { ...facts, outcome: "wrong", verification };
    const { peakBytes } = fa.memory();
    const inputSets = placed.takeTurns?.() ?? 1;
    const clock = clockOf(fa, placed, deviceTimer?.(fa));
    const warmMs = WARM_ALL_ALONG.includes(fa.backend.name) ? Math.min(sampleMs, MOST_WARM_MS) : sampleMs / 4;
    const timing = await measure(clock, { firstMs, warmMs, budgetMs: sampleMs, breathe });
    const { kernel } = placed;
    return { ...facts, outcome: "measured", verification, timing: { ...timing, inputSets }, peakBytes, kernel };
  } catch (error) {
    if (error instanceof FaError) return { ...facts, outcome: "failed", reason: error.message };
    // What engines throw for arrays that no memory holds.
    if (error instanceof RangeError) return { ...facts, outcome: "failed", reason: `host memory: ${error.message}` };
    throw error;
  }
}

function clockOf(fa: Attention, placed: Subject, timer: DeviceTimer | undefined): Clock {
  if (!timer || !placed.record)
    return wallClock(
      async () => (await placed.call()).dispose(),
      () => fa.sync(),
    );
  return {
    timer: "gpu",
    sampleMs: timer.sampleMs,
    grainMs: timer.grainMs,
    async time(calls) {
      const made: Results[] = [];
      const ms = await timer.time((encoder) => {
        for (let n = 0; n < calls; n++) made.push(placed.record!(encoder));
      });
      for (const results of made) results.dispose();
      return ms;
    },
  };
}

function seconds(ms: number): string {
  return `${ms < 9500 ? (ms / 1000).toPrecision(2) : Math.round(ms / 1000)} s`;
}
