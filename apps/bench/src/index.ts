/** What a page takes of this app: nothing here needs Node or a terminal. */
export { bench, type BenchOptions } from "./bench.ts";
export { moduleCases, sweepCases, tutorialCases, type Case, type SweepOptions } from "./cases.ts";
export { cells, COLUMNS, footnotes, headingOf, whyNotMeasured } from "./columns.ts";
export { goldenModule } from "./golden.ts";
export { PAPER, renderSvg, sweepChart, type ChartOption, type Look } from "./plot.ts";
export {
  formatResults,
  gflopsOf,
  isMeasured,
  parseResults,
  SCHEMA,
  VERSION,
  type Machine,
  type Measured,
  type Outcome,
  type RunFile,
} from "./results.ts";
