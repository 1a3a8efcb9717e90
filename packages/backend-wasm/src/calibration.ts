/**
 * Which register block the products use. Two are compiled, and the faster one depends on the engine's register allocator as much
 * as on the machine; so each process times both, once a build. The choice changes no bit of any result.
 *
 * It costs nothing that shows: a round of trials is made only after calls that took twenty times as long, never in the first one,
 * and the engine has by then compiled both with its optimizing compiler. Some milliseconds altogether.
 */
import type { FaWasmModule, Variant } from "./module.ts";

/** Rows of a register block; it has 8 columns. */
export type BlockRows = 4 | 6;
export const BLOCK_ROWS: readonly BlockRows[] = [6, 4];

export const TUNING: {
  readonly first: Readonly<Record<Variant, BlockRows>>;
  readonly share: number;
  readonly firstRoundMs: number;
  readonly trialRounds: number;
  readonly steadyRounds: number;
  readonly improvement: number;
  readonly margin: number;
} = {
  /** Until trials have told: with FMA 6 rows fit the registers of x64, with a product and a sum apart only 4. */
  first: { relaxed: 6, plain: 4 },
  /** Trials may take this share of the time of calls, and the first round is taken to last so long. */
  share: 0.05,
  firstRoundMs: 2,
  /** Of faCalibrate; a trial is 0.15 ms at 60 GFLOP/s, longer than the grain of a browser's clock. */
  trialRounds: 32,
  /** They end after so many rounds in a row that made neither block faster by more than `improvement`. */
  steadyRounds: 12,
  improvement: 1.05,
  /** How much faster the other block must be. */
  margin: 1.03,
};

/** What `faCalibrate` works on, and the operations of one of its rounds: TRIAL_ROWS, _COLUMNS and _DEPTH of c/forward.c. */
const TRIAL_BYTES = ((24 + 96) * 64 + 24 * 96) * 4;
const TRIAL_FLOPS = 2 * 24 * 96 * 64;

/** Times one trial of a block. Undefined where there is no memory for it. */
export type Trial = (rows: BlockRows) => number | undefined;

export class Calibration {
  readonly #best: Record<BlockRows, number> = { 4: Infinity, 6: Infinity };
  readonly #first: BlockRows;
  #rows: BlockRows;
  #settled = false;
  #steady = 0;
  /** Milliseconds that trials may take by now, and how many the last round took. */
  #creditMs = 0;
  #roundMs: number = TUNING.firstRoundMs;

  constructor(first: BlockRows) {
    this.#first = this.#rows = first;
  }

  get settled(): boolean {
    return this.#settled;
  }

  get rows(): BlockRows {
    return this.#rows;
  }

  /** "6 x 8 blocks, 64 GFLOP/s (4 x 8: 59)"; undefined while it is not settled. */
  get outcome(): string | undefined {
    if (!this.#settled) return undefined;
    const rate = (rows: BlockRows): string => ((TUNING.trialRounds * TRIAL_FLOPS) / this.#best[rows] / 1e6).toFixed(0);
    const other = otherThan(this.#rows);
    return `${nameOf(this.#rows)}, ${rate(this.#rows)} GFLOP/s (${other} x 8: ${rate(other)})`;
  }

  /** After a call that took so long: a round of trials, where it is due. */
  after(callMs: number, trial: Trial): void {
    if (this.#settled) return;
    this.#creditMs += callMs * TUNING.share;
    if (this.#creditMs < this.#roundMs) return;
    this.#creditMs = 0;
    this.#steady++;
    let roundMs = 0;
    for (const rows of BLOCK_ROWS) {
      const ms = trial(rows);
      if (ms === undefined) return;
      roundMs += ms;
      if (ms * TUNING.improvement < this.#best[rows]) this.#steady = 0;
      this.#best[rows] = Math.min(this.#best[rows], ms);
    }
    this.#roundMs = roundMs;
    if (this.#steady < TUNING.steadyRounds) return;
    const other = otherThan(this.#first);
    if (this.#best[other] * TUNING.margin < this.#best[this.#first]) this.#rows = other;
    this.#settled = true;
  }
}

const otherThan = (rows: BlockRows): BlockRows => (rows === 6 ? 4 : 6);

export function nameOf(rows: BlockRows): string {
  return `${rows} x 8 blocks`;
}

const calibrations = new Map<Variant, Calibration>();

/** That of the process. */
export function calibrationOf(variant: Variant): Calibration {
  let calibration = calibrations.get(variant);
  if (!calibration) calibrations.set(variant, (calibration = new Calibration(TUNING.first[variant])));
  return calibration;
}

/** On zeros, in memory that is given back. */
export function trialOn(module: FaWasmModule): Trial {
  return (rows) => {
    const work = module._malloc(TRIAL_BYTES);
    if (work === 0) return undefined;
    module.HEAPU8.fill(0, work, work + TRIAL_BYTES);
    const start = performance.now();
    module._faCalibrate(work, rows, TUNING.trialRounds);
    const ms = performance.now() - start;
    module._free(work);
    return ms;
  };
}
