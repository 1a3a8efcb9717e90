import { clockGrainMs } from "@fa/core";
import type { FaWasmModule } from "./module.ts";
import type { Team } from "./team.ts";
import { WorkloadBuilder } from "./workload.ts";

/** Operations of a round of `faRoofArithmetic`: 12 accumulators of 4 lanes, a multiplication and an addition each. */
const FLOPS_A_ROUND = 12 * 4 * 2;
/** Some hundredths of a millisecond. */
const FIRST_ROUNDS = 1 << 16;
const BUDGET_MS = 100;

const LEAST_MEASUREMENTS = 3;
/** Shorter measurements than so many steps of the clock do not count. */
const LEAST_GRAINS = 50;
/** So long is a job of a team that waking the workers, some hundredths of a millisecond, does not count. */
const TEAM_LEAST_MS = 4;

/** GFLOP/s of one thread. */
export function roof(module: FaWasmModule): Promise<number> {
  return bestRate((rounds) => {
    const start = performance.now();
    module._faRoofArithmetic(rounds);
    return { flops: rounds * FLOPS_A_ROUND, ms: performance.now() - start };
  });
}

/** GFLOP/s of all threads at once: of jobs whose pieces are taken by who is free. */
export function teamRoof(module: FaWasmModule, team: Team): Promise<number> {
  const pieces = 16 * team.size;
  return bestRate(async (rounds) => {
    const builder = new WorkloadBuilder(module, {}, {}, { shared: {}, scratch: { params: 0 } }, team.size);
    try {
      for (let n = 0; n < pieces; n++) builder.chain([{ kernel: "faRoofArithmetic", words: [rounds] }]);
      const workload = builder.build();
      const start = performance.now();
      await team.run(workload);
      return { flops: pieces * rounds * FLOPS_A_ROUND, ms: performance.now() - start };
    } finally {
      builder.release();
    }
  }, TEAM_LEAST_MS);
}

/**
 * GFLOP/s of the best of many short measurements, in about 100 ms: other work on the machine only ever slows one down. They are
 * made longer where the clock is too coarse for them, as in pages that are not cross-origin isolated.
 * @param measure so many rounds
 */
export async function bestRate(
  measure: (rounds: number) => Measured | Promise<Measured>,
  leastMs: number = 0,
): Promise<number> {
  const longEnough = Math.max(leastMs, LEAST_GRAINS * clockGrainMs());
  const deadline = performance.now() + BUDGET_MS;
  let rounds = FIRST_ROUNDS;
  const rates: number[] = [];
  do {
    const { flops, ms } = await measure(rounds);
    if (ms < longEnough) rounds *= 2;
    else rates.push(flops / ms / 1e6);
  } while (rates.length < LEAST_MEASUREMENTS || performance.now() < deadline);
  return Math.max(...rates);
}

interface Measured {
  readonly flops: number;
  readonly ms: number;
}
