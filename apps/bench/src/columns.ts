/** What tables of results say, wherever they are shown: the terminal, the README, a page. */
import type { Roof } from "@fa/core";
import type { Group } from "./cases.ts";
import type { Timing } from "./measure.ts";
import { gflopsOf, type Measured, type Outcome } from "./results.ts";

/** The columns of every table of results, in the terminal and in the README. */
export const COLUMNS = ["case", "ms", "GFLOP/s", "of roof", "peak memory", "scores", "error"] as const;

const HEADINGS: Readonly<Record<Group, string>> = {
  tutorial: "the tutorials' case",
  module: "FlashMHA",
  sweep: "attention, B 1",
  contest: "attention, B 1",
};

/** What the columns mean, for the line under a table. */
export function footnotes(roof: Roof): string[] {
  return [
    `ms       median ± half the distance of the quartiles; first call and warm-up left out`,
    `GFLOP/s  counts visible pairs only: 2 (D + Dv) flop each, backward 2.5 times that; and projections`,
    `of roof  ${roof.gflops.toFixed(1)} GFLOP/s, measured in this run: ${roof.what}`,
    `scores   what storing the B x H x S x S float32 scores would take, beside the peak that was needed`,
    `error    root mean square, relative; every case was held to the tolerances before it was timed,`,
    `         against the float64 reference or PyTorch's golden data`,
  ];
}

/** One line a column for a case that was measured. */
export function cells(measured: Measured, roof: Roof): string[] {
  const { title, timing, peakBytes, scoresBytes, verification } = measured;
  const gflops = gflopsOf(measured);
  return [
    title,
    spread(timing),
    gflops.toFixed(gflops < 10 ? 2 : 1),
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

/** What a group of cases has in common. */
export function headingOf({ group, H, D, dtype }: Outcome): string {
  return group === "sweep" || group === "contest" ? `${HEADINGS.sweep}, H ${H}, D ${D}, ${dtype}` : HEADINGS[group];
}

/** "12.3 ± 0.1": the median and half the distance of the quartiles, to the same digit. */
export function spread({ medianMs, lowMs, highMs }: Timing): string {
  const digits = medianMs >= 1000 ? 0 : medianMs >= 10 ? 1 : medianMs >= 1 ? 2 : 3;
  return `${medianMs.toFixed(digits)} ± ${((highMs - lowMs) / 2).toFixed(digits)}`;
}

export function bytes(n: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = n < 1024 ? 0 : Math.min(Math.floor(Math.log2(n) / 10), units.length - 1);
  const value = n / 1024 ** power;
  return `${power === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[power]}`;
}
