/** The time of a call, from how the time of a chain of calls grows with its length. */
import type { Chains } from "./player.ts";

/** Runs a chain of so many calls; milliseconds from its start to the end of its last call. */
export type RunChain = (calls: number) => Promise<number>;

export interface ChainLengths {
  /** A chain takes about this long: long beside the clock's grain and what a wait costs. */
  readonly chainMs: number;
  /** Repeated for so long before the chain's length is settled: a GPU that idled is several times slower. */
  readonly warmMs: number;
}

const LENGTHS: ChainLengths = { chainMs: 20, warmMs: 150 };
/** Calls in the shorter chain, at most: what is recorded before it runs takes memory. */
const MOST_CALLS = 512;
/** The longer chain has so many times the calls. */
const LONGER = 3;
const TRIES = 3;

export function chainsOf(run: RunChain, { chainMs, warmMs }: ChainLengths = LENGTHS): Chains {
  return {
    async pace() {
      let calls = 1;
      let ms = await run(calls);
      const until = performance.now() + warmMs;
      while ((ms < chainMs && calls < MOST_CALLS) || performance.now() < until) {
        // What a wait costs is in `ms` too: carefully.
        const growth = Math.min(Math.max(chainMs / Math.max(ms, 0.01), 1), 4);
        calls = Math.min(Math.ceil(calls * growth), MOST_CALLS);
        ms = await run(calls);
      }
      return { callMs: ms / calls, callsPerSample: calls };
    },
    slope: (calls) => slopeOf(run, calls, LONGER * calls),
  };
}

/** @throws Error when the longer chain is no slower */
export async function slopeOf(run: RunChain, few: number, many: number): Promise<number> {
  for (let n = 0; n < TRIES; n++) {
    const short = await run(few);
    const long = await run(many);
    if (long > short) return (long - short) / (many - few);
  }
  throw new Error(`a chain of ${many} calls took no longer than one of ${few}, ${TRIES} times over`);
}

/**
 * A first look at the time of a call, by the shortest of ever longer chains beside one call that shows it.
 * @throws Error when even a chain of `most` calls is no slower than one
 */
export async function firstSlope(run: RunChain, calls: number, most: number): Promise<number> {
  for (let many = calls; ; many = Math.min(LONGER * many, most)) {
    await run(many);
    try {
      return await slopeOf(run, 1, many);
    } catch (error) {
      if (many >= most) throw error;
    }
  }
}

/**
 * The same for a roof: of chains of either length the fastest count. What disturbs a chain makes it slower, so that slopes of single
 * ones err both ways, and the best of several is faster than the machine.
 * @throws Error when the longer chain is no slower
 */
export async function roofSlope(run: RunChain, calls: number): Promise<number> {
  const many = LONGER * calls;
  let [short, long] = [Infinity, Infinity];
  for (let n = 0; n < TRIES; n++) {
    short = Math.min(short, await run(calls));
    long = Math.min(long, await run(many));
  }
  if (!(long > short)) throw new Error(`a chain of ${many} calls took no longer than one of ${calls}`);
  return (long - short) / (many - calls);
}
