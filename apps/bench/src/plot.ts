import {
  BarChart,
  LineChart,
  ScatterChart,
  type BarSeriesOption,
  type LineSeriesOption,
  type ScatterSeriesOption,
} from "echarts/charts";
import {
  GridComponent,
  LegendComponent,
  MarkLineComponent,
  TitleComponent,
  type GridComponentOption,
  type LegendComponentOption,
  type MarkLineComponentOption,
  type TitleComponentOption,
} from "echarts/components";
import { init, use, type ComposeOption } from "echarts/core";
import { SVGRenderer } from "echarts/renderers";
import {
  gflopsOf,
  isMeasured,
  type ContestFile,
  type Entry,
  type Measured,
  type ResultsFile,
  type RunFile,
} from "./results.ts";
import { rate } from "./columns.ts";
import { rooflineOf } from "./roofline.ts";

use([
  BarChart,
  LineChart,
  ScatterChart,
  GridComponent,
  LegendComponent,
  MarkLineComponent,
  TitleComponent,
  SVGRenderer,
]);

export type ChartOption = ComposeOption<
  | BarSeriesOption
  | LineSeriesOption
  | ScatterSeriesOption
  | GridComponentOption
  | LegendComponentOption
  | MarkLineComponentOption
  | TitleComponentOption
>;

/** Colours of a chart, for what it is shown on. */
export interface Look {
  readonly background: string;
  readonly text: string;
  readonly faint: string;
  readonly grid: string;
  readonly full: string;
  readonly causal: string;
  readonly roof: string;
}

export const PAPER: Look = {
  background: "#ffffff",
  text: "#1f2328",
  faint: "#59636e",
  grid: "#d1d9e0",
  full: "#0969da",
  causal: "#bc4c00",
  roof: "#8250df",
};

/** Ours first; peers in the order in which they take part. */
const BARS = ["#0969da", "#bc4c00", "#1a7f37", "#9a6700", "#8250df", "#cf222e"];

/** A line of a chart from one point to another, with its name. */
type Limit = [{ name: string; coord: number[]; label: object }, { coord: number[] }];

/** Of every chart. */
const axisOf = ({ text, faint, grid }: Look) =>
  ({
    nameLocation: "middle",
    nameTextStyle: { color: text, fontSize: 13 },
    axisLabel: { color: faint, fontSize: 12 },
    axisLine: { show: true, lineStyle: { color: faint } },
    splitLine: { lineStyle: { color: grid } },
  }) as const;

const titled = (look: Look, text: string, subtext: string) => ({
  text,
  subtext,
  left: "center",
  top: 8,
  textStyle: { color: look.text, fontSize: 17 },
  subtextStyle: { color: look.faint, fontSize: 12, width: WIDTH - 60, overflow: "truncate" as const },
});

const roofLine = ({ roof }: Look, gflops: number, formatter: string) => ({
  silent: true,
  symbol: "none",
  lineStyle: { color: roof, type: "dashed" as const, width: 1.5 },
  label: { position: "insideStartTop" as const, formatter, color: roof, fontSize: 12 },
  data: [{ yAxis: gflops }],
});

/** GFLOP/s over S under the roof: causal and not, or what else was asked for. Undefined when the run measured no sweep. */
export function sweepChart({ outcomes, roof, backend, machine }: RunFile, look: Look = PAPER): ChartOption | undefined {
  const sweep = outcomes.filter(isMeasured).filter(({ group }) => group === "sweep" || group === "run");
  if (sweep.length === 0) return undefined;
  const [{ B, H, D, dtype, pass, group }] = sweep;
  const lines = Map.groupBy(sweep, nameOfLine);
  const colours = [look.full, look.causal, ...BARS.slice(2)];
  const series = [...lines].map(([name, members], n): LineSeriesOption => {
    const points = members.map((o) => [o.Skv, gflopsOf(o)]);
    const color = colours[n % colours.length];
    return {
      type: "line",
      name,
      data: points,
      symbol: n % 2 === 1 ? "rect" : "circle",
      symbolSize: 7,
      lineStyle: { width: 2, color },
      itemStyle: { color },
    };
  });
  const top = Math.max(roof.gflops, ...sweep.map(gflopsOf));
  series[0].markLine = roofLine(look, roof.gflops, `roof ${roof.gflops.toFixed(1)} GFLOP/s: ${roof.what}`);
  // Whole powers of two around the sizes, so that every tick is one.
  const sizes = sweep.map(({ Skv }) => Math.log2(Skv));
  const first = 2 ** Math.floor(Math.min(...sizes));
  const last = 2 ** Math.ceil(Math.max(...sizes));
  const axis = axisOf(look);
  return {
    animation: false,
    backgroundColor: look.background,
    title: titled(
      look,
      `Attention${group === "sweep" ? ` ${pass}` : ""}, back end ${backend.name}`,
      `B ${B}, H ${H}, D ${D}, ${group === "sweep" ? `${dtype}, ` : ""}${machine.name}, ${backend.device}`,
    ),
    legend: {
      data: [...lines.keys()],
      ...(lines.size > 2 ? { left: "center" } : { right: 24 }),
      bottom: 8,
      itemGap: 24,
      textStyle: { color: look.text, fontSize: 13 },
    },
    grid: { left: 72, right: 32, top: 76, bottom: lines.size > 2 ? 86 : 66 },
    xAxis: {
      ...axis,
      type: "log",
      logBase: 2,
      name: "sequence length S (tokens)",
      nameGap: 30,
      min: first,
      max: Math.max(last, 2 * first),
      axisLabel: { ...axis.axisLabel, formatter: String },
    },
    yAxis: {
      ...axis,
      type: "value",
      name: "speed (GFLOP/s, visible pairs)",
      nameGap: 46,
      min: 0,
      max: niceAbove(top * 1.08),
    },
    series,
  };
}

/** "causal", or of sweeps of one's own "forward, float32" and the options. */
function nameOfLine({ group, causal, pass, Sq, dtype, title }: Measured): string {
  if (group === "sweep") return causal ? "causal" : "full";
  const [, ...options] = title.split(", ");
  return [Sq === 1 ? "decode" : pass, dtype, ...options].join(", ");
}

/**
 * Attained rates over arithmetic intensity, under the roofs of arithmetic and the slope of memory; undefined when nothing was
 * measured. Both axes are logarithmic.
 */
export function rooflineChart(file: ResultsFile, look: Look = PAPER): ChartOption | undefined {
  const { roofs, points } = rooflineOf(file);
  if (points.length === 0) return undefined;
  const { arithmetic, bandwidth } = roofs;
  const peak = Math.max(...arithmetic.map(({ gflops }) => gflops), ...points.map(({ gflops }) => gflops));
  const ridges = bandwidth ? arithmetic.map(({ gflops }) => gflops / bandwidth.gbs) : [];
  const intensities = [...points.map(({ intensity }) => intensity), ...ridges];
  const [left, right] = [tenBelow(Math.min(...intensities)), tenAbove(Math.max(...intensities))];
  const limit = (name: string, position: "insideEndTop" | "insideMiddleTop", from: number[], to: number[]): Limit => [
    { name, coord: from, label: { show: true, position, formatter: name, color: look.roof, fontSize: 12 } },
    { coord: to },
  ];
  const highest = arithmetic.at(-1);
  const limits = arithmetic.map(({ gflops, what }) =>
    limit(
      `${rate(gflops)} GFLOP/s: ${what}`,
      "insideEndTop",
      [bandwidth ? gflops / bandwidth.gbs : left, gflops],
      [right, gflops],
    ),
  );
  // Below the highest roof all slopes are one.
  if (bandwidth && highest) {
    const ridge = [highest.gflops / bandwidth.gbs, highest.gflops];
    limits.push(limit(`${rate(bandwidth.gbs)} GB/s`, "insideMiddleTop", [left, bandwidth.gbs * left], ridge));
  }
  const dots = [...Map.groupBy(points, ({ who }) => who)].map(([name, members], n): ScatterSeriesOption => ({
    type: "scatter",
    name,
    data: members.map(({ intensity, gflops }) => [intensity, gflops]),
    symbol: (["circle", "rect", "triangle", "diamond"] as const)[n % 4],
    symbolSize: 8,
    itemStyle: { color: BARS[n % BARS.length] },
    ...(n === 0 && {
      markLine: {
        silent: true,
        symbol: "none",
        lineStyle: { color: look.roof, width: 1.5, type: "solid" },
        data: limits,
      },
    }),
  }));
  const memory = bandwidth ? `memory ${rate(bandwidth.gbs)} GB/s: ${bandwidth.what}` : "memory not measured";
  const axis = axisOf(look);
  return {
    animation: false,
    backgroundColor: look.background,
    title: titled(look, "Attained rates under the roofs", `${file.machine.name}; ${memory}`),
    legend: {
      data: dots.map(({ name }) => String(name)),
      bottom: 8,
      itemGap: 24,
      textStyle: { color: look.text, fontSize: 12 },
    },
    // The legend wraps after about five names.
    grid: { left: 72, right: 32, top: 76, bottom: 60 + 32 * Math.ceil(dots.length / 5) },
    xAxis: {
      ...axis,
      type: "log",
      name: "arithmetic intensity (flop/byte)",
      nameGap: 30,
      min: left,
      max: right,
      axisLabel: { ...axis.axisLabel, formatter: String },
    },
    yAxis: {
      ...axis,
      type: "log",
      name: "speed (GFLOP/s)",
      nameGap: 52,
      min: tenBelow(Math.min(...points.map(({ gflops }) => gflops))),
      max: tenAbove(peak),
      axisLabel: { ...axis.axisLabel, formatter: String },
    },
    series: dots,
  };
}

const tenBelow = (value: number): number => 10 ** Math.floor(Math.log10(value));
const tenAbove = (value: number): number => 10 ** Math.ceil(Math.log10(value));

/** The head dim that every peer is compared on. */
const CHART_DIM = 64;

/**
 * Ours and each peer on one thread, as bars over S: full on the left, causal on the right. Undefined without a peer, and
 * for GPUs: bars of 4 and 400 TFLOP/s do not fit one axis.
 */
export function comparisonChart({ contestOf, ...file }: ContestFile): ChartOption | undefined {
  const { contestants, entries, roof, machine } = file;
  if (contestOf !== "wasm") return undefined;
  const shown = contestants.filter(
    ({ id, threads, takesPart }) => takesPart && threads === 1 && (id === "ours/1" || !id.startsWith("ours")),
  );
  const ids = shown.map(({ id }) => id);
  const onGrid = ({ id, contestant, D }: Entry): boolean =>
    D === CHART_DIM && ids.includes(contestant) && entries.some((e) => e.id === id && !e.contestant.startsWith("ours"));
  const grid = entries.filter(onGrid);
  if (grid.length === 0) return undefined;
  const sizes = [...new Set(grid.map(({ Sq }) => Sq))].toSorted((a, b) => a - b);
  const panels = [false, true];
  const { H, dtype } = grid[0];
  const series = panels.flatMap((causal, panel) =>
    shown.map(({ id, name }, n): BarSeriesOption => {
      const at = (S: number) => grid.find((e) => e.contestant === id && e.Sq === S && e.causal === causal);
      return {
        type: "bar",
        name,
        xAxisIndex: panel,
        yAxisIndex: panel,
        itemStyle: { color: BARS[n % BARS.length] },
        barGap: "5%",
        barCategoryGap: "22%",
        data: sizes.map((S) => {
          const entry = at(S);
          if (entry && isMeasured(entry)) return { value: gflopsOf(entry) };
          return { value: 0, label: { formatter: entry?.outcome === "failed" ? "fails" : "" } };
        }),
        // Only what has no bar has a label.
        label: { show: true, position: "top", rotate: 90, align: "left", verticalAlign: "middle", formatter: () => "" },
        ...(n === 0 && { markLine: roofLine(PAPER, roof!.gflops, `roof ${roof!.gflops.toFixed(1)}`) }),
      };
    }),
  );
  const top = Math.max(roof!.gflops, ...grid.filter(isMeasured).map(gflopsOf));
  return {
    animation: false,
    backgroundColor: PAPER.background,
    title: titled(
      PAPER,
      "Attention forward on WebAssembly, one thread",
      `B 1, H ${H}, D ${CHART_DIM}, ${dtype}, ${machine.name}, ${machine.runtime}`,
    ),
    legend: {
      data: shown.map(({ name }) => name),
      bottom: 8,
      itemGap: 32,
      textStyle: { color: PAPER.text, fontSize: 13 },
    },
    grid: panels.map((_, panel) => ({ left: panel === 0 ? 72 : 490, width: 340, top: 76, bottom: 86 })),
    xAxis: panels.map((causal, gridIndex) => ({
      ...axisOf(PAPER),
      type: "category" as const,
      gridIndex,
      name: `${causal ? "causal" : "full"}: sequence length S (tokens)`,
      nameGap: 30,
      data: sizes.map(String),
    })),
    yAxis: panels.map((causal, gridIndex) => ({
      ...axisOf(PAPER),
      type: "value" as const,
      gridIndex,
      name: causal ? "" : "speed (GFLOP/s, visible pairs)",
      nameGap: 46,
      min: 0,
      max: niceAbove(top * 1.08),
    })),
    series,
  };
}

/** Of the titles of a grid: "S 4096, D 64, full, float16". */
const ON_GRID = /^S \d+, D \d+, (full|causal), \w+$/;

/**
 * What everybody reached on a GPU: a chart a dtype and head dim, lines over S, full on the left and causal on the right. Speed is on
 * a logarithmic axis, for one may be a hundred times as fast as another. None of a contest of the processor.
 */
export function gpuCharts({ contestOf, contestants, entries, machine }: ContestFile): ChartOption[] {
  if (contestOf === "wasm") return [];
  const grid = entries.filter(isMeasured).filter(({ title, id }) => ON_GRID.test(title) && !id.endsWith("/ramped"));
  const groups = [...Map.groupBy(grid, ({ dtype, D }) => `${dtype}, D ${D}`)];
  return groups.flatMap(([heading, members]) => {
    const sizes = [...new Set(members.map(({ Sq }) => Sq))].toSorted((a, b) => a - b);
    if (sizes.length < 2) return [];
    const tflops = members.map((entry) => gflopsOf(entry) / 1000);
    const panels = [false, true];
    const played = contestants.filter(({ id }) => members.some(({ contestant }) => contestant === id));
    const series = panels.flatMap((causal, panel) =>
      played.map(({ id, name }, n): LineSeriesOption => ({
        type: "line",
        name,
        xAxisIndex: panel,
        yAxisIndex: panel,
        symbol: (["circle", "rect", "triangle", "diamond"] as const)[n % 4],
        symbolSize: 7,
        lineStyle: { width: 2, color: BARS[n % BARS.length] },
        itemStyle: { color: BARS[n % BARS.length] },
        data: sizes.map((S) => {
          const at = members.find((one) => one.contestant === id && one.Sq === S && one.causal === causal);
          return at ? gflopsOf(at) / 1000 : null;
        }),
      })),
    );
    const axis = axisOf(PAPER);
    const chart: ChartOption = {
      animation: false,
      backgroundColor: PAPER.background,
      title: titled(PAPER, `Attention forward, ${heading}`, `${machine.name}, ${contestOf} and others`),
      legend: {
        data: played.map(({ name }) => name),
        bottom: 8,
        itemGap: 24,
        textStyle: { color: PAPER.text, fontSize: 13 },
      },
      grid: panels.map((_, panel) => ({ left: panel === 0 ? 72 : 490, width: 340, top: 76, bottom: 86 })),
      xAxis: panels.map((causal, gridIndex) => ({
        ...axis,
        type: "category" as const,
        gridIndex,
        name: `${causal ? "causal" : "full"}: sequence length S (tokens)`,
        nameGap: 30,
        data: sizes.map(String),
      })),
      yAxis: panels.map((causal, gridIndex) => ({
        ...axis,
        type: "log" as const,
        gridIndex,
        name: causal ? "" : "speed (TFLOP/s, visible pairs)",
        nameGap: 46,
        min: tenBelow(Math.min(...tflops)),
        max: tenAbove(Math.max(...tflops)),
        axisLabel: { ...axis.axisLabel, formatter: String },
      })),
      series,
    };
    return [chart];
  });
}

/** The least of 1, 1.5, 2, 3, 4, 5, 6, 8, 10 times a power of ten that is not below. */
function niceAbove(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value)! * power;
}

const WIDTH = 860;
const HEIGHT = 460;

/** The chart as the text of an SVG file. Needs no document. */
export function renderSvg(option: ChartOption): string {
  const chart = init(null, null, { renderer: "svg", ssr: true, width: WIDTH, height: HEIGHT });
  chart.setOption(option);
  const svg = chart.renderToSVGString();
  chart.dispose();
  return svg;
}
