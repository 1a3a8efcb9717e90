/**
 * Libraries on the same cases, taking turns, so that whatever else the machine does hits all alike. Each entry is
 * verified against float64 before it is timed; one that fails or errs is shown as that and has no time.
 */
import type { AttentionCase } from "./cases.ts";
import type { Timing } from "./measure.ts";
import { quantile } from "./numbers.ts";
import type { Entry } from "./results.ts";
import { numbersOf, truthOf, type Truth } from "./truth.ts";
import type { Verification } from "./verify.ts";

/** What a contestant throws; anything else is a fault of ours. */
export class ContestantError extends Error {
  override readonly name = "ContestantError";
}

/** A library with its options, ready to be asked. */
export interface Contestant {
  /** "onnxruntime-web/2": the library and its threads. */
  readonly id: string;
  readonly name: string;
  readonly threads: number;
  /** How many times the tolerance of half types it may err. Default 1; more for a library that accumulates in them. */
  readonly mayErr?: number | undefined;
  /**
   * Loads it, and says which version and device it is.
   * @throws ContestantError when it cannot take part, with the reason
   */
  open(): Promise<string>;
  /** Puts a case's inputs where it wants them; opens it again if it was closed. */
  place(item: AttentionCase): Promise<Placed>;
  /** Ends it, whatever state it is in. */
  close(): Promise<void>;
}

export interface Placed {
  /** Copies of keys and values that calls take in turn, as far as anybody tells. */
  readonly inputSets?: number | undefined;
  first(): Promise<FirstCall>;
  /**
   * Warms up and chooses how many calls a sample takes, for those who measure a call by how the time of a chain of calls
   * grows with its length. Without it, calls are sampled one by one until that is known.
   */
  pace?(): Promise<Pace>;
  /** @returns milliseconds a call, each waited for */
  sample(calls: number): Promise<number>;
  free(): Promise<void>;
}

export interface Pace {
  /** Milliseconds of a call, about. */
  readonly callMs: number;
  readonly callsPerSample: number;
}

export interface FirstCall {
  readonly ms: number;
  /** The results, by the names of the contract. */
  readonly results: Readonly<Record<string, ArrayLike<number>>>;
  /** The most that tensors and workspace took; null where the library does not tell. */
  readonly peakBytes: number | null;
  /** The kernel that ran, where there are several. */
  readonly kernel?: string | undefined;
}

/**
 * Rates of the machine that are sampled between the entries: GFLOP/s, or bytes a second. Of the processor: float32 fused
 * multiply-adds, multiplications and additions, reading. Of the GPU: float32 multiply-adds, subgroup matrices, copying; in CUDA bfloat16 products
 * in registers, and of whole matrices.
 */
export type GaugeName = "relaxed" | "plain" | "read" | "fma" | "matrix" | "copy" | "mma" | "matmul";
export type Gauge = (name: GaugeName, item: AttentionCase) => Promise<number>;

/** Entries that are timed in turns. */
export interface Match {
  readonly id: string;
  readonly title: string;
  readonly entries: readonly { readonly contestant: string; readonly item: AttentionCase }[];
  /** Sampled once a round. */
  readonly gauges: readonly GaugeName[];
}

export interface MatchResult {
  readonly match: Match;
  /** One for each of the match's entries, in their order. */
  readonly entries: readonly Entry[];
  /** The samples, one a round. */
  readonly gauges: Readonly<Partial<Record<GaugeName, readonly number[]>>>;
}

export interface ContestOptions {
  /** By id: a contestant that is open, or why it takes no part. */
  readonly contestants: ReadonlyMap<string, Contestant | string>;
  readonly gauge: Gauge;
  /** Samples of an entry, at most. */
  readonly rounds: number;
  /** What an entry's samples may take together; it has one in any case. */
  readonly entryMs: number;
  readonly signal: AbortSignal;
  /** All entries take turns for so long before the first sample that counts. Default 0. */
  readonly warmMs?: number | undefined;
  /** What must come out of a case; computed here unless given. */
  readonly truth?: ((item: AttentionCase) => Promise<Truth>) | undefined;
}

/** @throws the signal's reason, between two calls, once it is aborted */
export async function* contest(matches: readonly Match[], options: ContestOptions): AsyncGenerator<MatchResult> {
  for (const match of matches) yield await play(match, options);
}

/** Calls before the clock counts: engines compile hot loops again while they run. */
export const WARM_MS = 250;
/** Short calls are taken together, so that neither the clock's grain nor the way to the contestant shows. */
const SAMPLE_MS = 50;
/**
 * A turn of shorter calls begins with one that does not count: the others have had the caches, and a core that waited
 * has to wake. Of longer ones it is no part that shows.
 */
const LONG_MS = 500;
/** Pools of threads spin for a while after their last task, onnxruntime's for 10 ms: not into another's sample. */
const SETTLE_MS = 25;

/** An entry that was verified. */
interface Runner {
  readonly place: number;
  readonly contestant: Contestant;
  readonly placed: Placed;
  readonly first: FirstCall;
  readonly callsPerSample: number;
  readonly samples: number[];
}

async function play(
  match: Match,
  { contestants, gauge, rounds, entryMs, signal, warmMs = 0, truth = truthHere }: ContestOptions,
): Promise<MatchResult> {
  const entries: Entry[] = [];
  const runners: Runner[] = [];
  const truths = new Map<string, Truth>();

  /** Lets timers and signals through. */
  const breathe = async (): Promise<void> => {
    await new Promise((resolve) => setTimeout(resolve));
    signal.throwIfAborted();
  };
  const truthFor = async (item: AttentionCase): Promise<Truth> => {
    const known = truths.get(item.facts.id) ?? (await truth(item));
    truths.set(item.facts.id, known);
    return known;
  };
  /** Runs a step of an entry; if its contestant fails, the entry is a failed one and the contestant starts afresh. */
  const attempt = async <T>(place: number, contestant: Contestant, step: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await step();
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof ContestantError)) throw error;
      const { item } = match.entries[place];
      entries[place] = { ...item.facts, contestant: contestant.id, outcome: "failed", reason: error.message };
      await contestant.close();
      return undefined;
    }
  };

  for (const [place, { contestant: id, item }] of match.entries.entries()) {
    await breathe();
    const contestant = contestants.get(id) ?? "not asked to take part";
    if (typeof contestant === "string") {
      entries[place] = { ...item.facts, contestant: id, outcome: "skipped", reason: contestant };
      continue;
    }
    await attempt(place, contestant, async () => {
      const placed = await contestant.place(item);
      const first = await placed.first();
      await breathe();
      const verification = allowed((await truthFor(item)).check(first.results), contestant, item);
      if (!verification.ok) {
        entries[place] = { ...item.facts, contestant: id, outcome: "wrong", verification };
        await placed.free();
        return;
      }
      const { callMs, callsPerSample } = await (placed.pace?.() ?? paceOf(placed, first));
      runners.push({ place, contestant, placed, first, callsPerSample, samples: [] });
      const timing = timingOf([callMs], first, callsPerSample, placed);
      entries[place] = {
        ...item.facts,
        contestant: id,
        outcome: "measured",
        verification,
        timing,
        peakBytes: first.peakBytes,
        kernel: first.kernel,
      };
    });
  }

  for (let turn = 0, until = performance.now() + warmMs; performance.now() < until && runners.length > 0; turn++) {
    const { place, contestant, placed, callsPerSample } = runners[turn % runners.length];
    if (entries[place].outcome === "measured") await attempt(place, contestant, () => placed.sample(callsPerSample));
    await breathe();
  }

  const gauged: Partial<Record<GaugeName, number[]>> = {};
  for (let round = 0; round < rounds; round++) {
    for (const name of match.gauges) {
      await breathe();
      (gauged[name] ??= []).push(await gauge(name, match.entries[0].item));
    }
    for (let turn = 0; turn < runners.length; turn++) {
      // Each round begins with another, so that none always follows the same one.
      const { place, contestant, placed, first, samples, callsPerSample } = runners[(round + turn) % runners.length];
      if (entries[place].outcome !== "measured") continue;
      const spentMs = samples.reduce((sum, ms) => sum + ms, 0) * callsPerSample;
      const nextMs = samples.length === 0 ? 0 : samples.at(-1)! * callsPerSample;
      if (samples.length > 0 && spentMs + nextMs > entryMs) continue;
      await breathe();
      const ms = await attempt(place, contestant, async () => {
        if (first.ms < LONG_MS && !placed.pace) await placed.sample(1);
        return placed.sample(callsPerSample);
      });
      if (ms !== undefined) samples.push(ms);
      if (contestant.threads > 1) await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    }
  }

  for (const { place, contestant, placed, first, callsPerSample, samples } of runners) {
    const entry = entries[place];
    if (entry.outcome !== "measured") continue;
    entries[place] = { ...entry, timing: timingOf(samples, first, callsPerSample, placed) };
    await attempt(place, contestant, () => placed.free());
  }
  return { match, entries, gauges: gauged };
}

const truthHere = async (item: AttentionCase): Promise<Truth> => truthOf(item, numbersOf(item));

/** What a contestant may err more than others is said where it is used. */
function allowed(verification: Verification, { mayErr = 1 }: Contestant, { facts }: AttentionCase): Verification {
  const { ok, ofTolerance, against } = verification;
  if (ok || facts.dtype === "float32" || !(ofTolerance <= mayErr)) return verification;
  return { ...verification, ok: true, mayErr, against: `${against}, ${mayErr} times the tolerance` };
}

/** The pace of single calls. */
async function paceOf(placed: Placed, first: FirstCall): Promise<Pace> {
  let warmMs = first.ms;
  let callMs = first.ms;
  while (warmMs < WARM_MS) {
    const ms = await placed.sample(1);
    warmMs += Math.max(ms, 0.1);
    callMs = Math.min(callMs, ms);
  }
  return { callMs, callsPerSample: Math.max(1, Math.ceil(SAMPLE_MS / Math.max(callMs, 0.01))) };
}

function timingOf(
  samples: readonly number[],
  { ms: firstMs }: FirstCall,
  callsPerSample: number,
  placed: Placed,
): Timing {
  const times = samples.toSorted((a, b) => a - b);
  return {
    medianMs: quantile(times, 0.5),
    lowMs: quantile(times, 0.25),
    highMs: quantile(times, 0.75),
    firstMs,
    samples: times.length,
    callsPerSample,
    timer: placed.pace ? "chains" : "wall",
    ...(placed.inputSets !== undefined && { inputSets: placed.inputSets }),
  };
}
