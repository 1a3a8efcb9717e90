/** What a page takes of this app: nothing here needs Node or a terminal. */
export { askedCase, askedCases, type Asked, type AskedOptions, type AskedSweep } from "./asked-cases.ts";
export { bench, type BenchOptions, type DeviceTimer } from "./bench.ts";
export { moduleCases, sweepCases, tutorialCases, type Case, type SweepOptions } from "./cases.ts";
export { cells, COLUMNS, footnotes, headingOf, labelOf, rate, timerNotes, whyNotMeasured } from "./columns.ts";
export { explained, explanationLines, type Explanation } from "./explanation.ts";
export { goldenModule } from "./golden.ts";
export { gpuTimer } from "./gpu-timer.ts";
export { TIMERS, type TimerName, type Timing } from "./measure.ts";
export { PAPER, renderSvg, rooflineChart, sweepChart, type ChartOption, type Look } from "./plot.ts";
export { readRate } from "./read-rate.ts";
export { reportPage, type NamedResults } from "./report.ts";
export {
  formatResults,
  gflopsOf,
  isMeasured,
  parseResults,
  SCHEMA,
  VERSION,
  type Bandwidth,
  type Machine,
  type Measured,
  type Outcome,
  type RunFile,
} from "./results.ts";
export { rooflineCells, rooflineNotes, rooflineOf, ROOFLINE_COLUMNS, type Point, type Roofline } from "./roofline.ts";
