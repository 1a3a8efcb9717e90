/** What tables of results say, wherever they are shown: the terminal, the README, a page. */
import type { Roof } from "@fa/core";
import type { Group } from "./cases.ts";
import { TIMERS, type Timing } from "./measure.ts";
import { gflopsOf, roofOf, type Measured, type Outcome, type RunFile } from "./results.ts";

/** The columns of every table of results, in the terminal and in the README. */
export const COLUMNS = ["case", "ms", "first", "GFLOP/s", "of roof", "memory", "scores", "error"] as const;

const HEADINGS: Readonly<Record<Exclude<Group, "run">, string>> = {
  tutorial: "the tutorials' case",
  module: "FlashMHA",
  sweep: "attention, B 1",
  contest: "attention, B 1",
};

/** What the columns mean, for the line under a table. */
export function footnotes(file: Pick<RunFile, "outcomes" | "roof" | "matrixRoof">): string[] {
  const { outcomes } = file;
  const roofs = [...new Set(outcomes.map((outcome) => roofOf(file, outcome)))];
  return [
    `ms       median ± half the distance of the quartiles; first call and warm-up left out`,
    ...timerNotes(outcomes).map((note, n) => `${n === 0 ? "timed by" : "        "} ${note}`),
    `first    what the first call took, in ms, compiling and warming included`,
    `GFLOP/s  counts visible pairs only: 2 (D + Dv) flop each, backward 2.5 times that; and projections`,
    ...roofs.map(({ gflops, what }, n) => {
      const measured = `${gflops.toFixed(1)} GFLOP/s, measured in this run: ${what}`;
      return n === 0 ? `of roof  ${measured}` : `         ${measured}; of half types`;
    }),
    `memory   the most that tensors and workspace took`,
    `scores   what storing the B x H x S x S float32 scores would take beside`,
    `error    root mean square, relative; every case was held to the tolerances before it was timed,`,
    `         against the float64 reference or PyTorch's golden data`,
  ];
}

/** One line a column for a case that was measured. */
export function cells(measured: Measured, roof: Roof): string[] {
  const { timing, peakBytes, scoresBytes, verification } = measured;
  const gflops = gflopsOf(measured);
  return [
    labelOf(measured),
    spread(timing),
    milliseconds(timing.firstMs),
    rate(gflops),
    `${((100 * gflops) / roof.gflops).toFixed(0)} %`,
    peakBytes === null ? "-" : bytes(peakBytes),
    bytes(scoresBytes),
    Math.sqrt(verification.meanSquareError).toExponential(1),
  ];
}

/** "WRONG ..." or why there is no number, for a case that was not measured. */
export function whyNotMeasured(outcome: Exclude<Outcome, Measured>): string {
  if (outcome.outcome !== "wrong") return `${outcome.outcome}: ${outcome.reason}`;
  const { worst, maxError, ofTolerance, against } = outcome.verification;
  const what = Number.isNaN(ofTolerance)
    ? `${worst} holds NaN`
    : `${worst} errs ${ofTolerance.toPrecision(2)} times what it may; largest error ${maxError.toExponential(1)}`;
  return `WRONG: ${what} (against ${against}); not timed`;
}

/** How the measured cases were timed: the clocks, and whether inputs took turns. */
export function timerNotes(outcomes: readonly Outcome[]): string[] {
  const timings = outcomes.flatMap((outcome) => (outcome.outcome === "measured" ? [outcome.timing] : []));
  const timers = [...new Set(timings.map(({ timer }) => timer))].map((timer) => TIMERS[timer]);
  const inTurn = timings.some(({ inputSets = 1 }) => inputSets > 1);
  return [
    ...timers,
    ...(inTurn ? ["where memory decides, copies of keys and values take turns, so that no cache holds them"] : []),
  ];
}

/** What a case is called under its heading. */
export function labelOf({ group, title }: Outcome): string {
  return group === "run" ? title.split(", ", 1)[0] : title;
}

/** What a group of cases has in common. */
export function headingOf({ group, title, pass, B, H, Hkv, Sq, D, Dv, dtype }: Outcome): string {
  if (group === "tutorial" || group === "module") return HEADINGS[group];
  const heads = Hkv === H ? `H ${H}` : `H ${H}, Hkv ${Hkv}`;
  const dims = Dv === D ? `D ${D}` : `D ${D}, Dv ${Dv}`;
  const facts = `${heads}, ${dims}, ${dtype}`;
  if (group !== "run") return `${HEADINGS[group]}, ${facts}`;
  const [, ...options] = title.split(", ");
  return [Sq === 1 ? "decode" : pass, `B ${B}`, facts, ...options].join(", ");
}

/** "12.3 ± 0.1": the median and half the distance of the quartiles, to the same digit. */
export function spread({ medianMs, lowMs, highMs }: Timing): string {
  const digits = medianMs >= 1000 ? 0 : medianMs >= 10 ? 1 : medianMs >= 1 ? 2 : 3;
  return `${medianMs.toFixed(digits)} ± ${((highMs - lowMs) / 2).toFixed(digits)}`;
}

/** GFLOP/s or GB/s: "1.23", "45.6", "78901" */
export function rate(value: number): string {
  return value.toFixed(value < 10 ? 2 : value < 1000 ? 1 : 0);
}

/** "0.123", "12.3", "1234" */
export function milliseconds(ms: number): string {
  return ms.toFixed(ms >= 100 ? 0 : ms >= 10 ? 1 : ms >= 1 ? 2 : 3);
}

export function bytes(n: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = n < 1024 ? 0 : Math.min(Math.floor(Math.log2(n) / 10), units.length - 1);
  const value = n / 1024 ** power;
  return `${power === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[power]}`;
}
