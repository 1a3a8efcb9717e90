import { BarChart, LineChart, type BarSeriesOption, type LineSeriesOption } from "echarts/charts";
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
import { gflopsOf, isMeasured, type ContestFile, type Entry, type RunFile } from "./results.ts";

use([BarChart, LineChart, GridComponent, LegendComponent, MarkLineComponent, TitleComponent, SVGRenderer]);

export type ChartOption = ComposeOption<
  | BarSeriesOption
  | LineSeriesOption
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
const BARS = ["#0969da", "#bc4c00", "#1a7f37", "#9a6700"];

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

/** GFLOP/s over S, causal and not, under the roof; undefined when the run measured no sweep. */
export function sweepChart({ outcomes, roof, backend, machine }: RunFile, look: Look = PAPER): ChartOption | undefined {
  const sweep = outcomes.filter(isMeasured).filter(({ group }) => group === "sweep");
  if (sweep.length === 0) return undefined;
  const { H, D, dtype } = sweep[0];
  const series = [false, true].map((causal): LineSeriesOption => {
    const points = sweep.filter((outcome) => outcome.causal === causal).map((o) => [o.Sq, gflopsOf(o)]);
    const color = causal ? look.causal : look.full;
    return {
      type: "line",
      name: causal ? "causal" : "full",
      data: points,
      symbol: causal ? "rect" : "circle",
      symbolSize: 7,
      lineStyle: { width: 2, color },
      itemStyle: { color },
    };
  });
  const top = Math.max(roof.gflops, ...sweep.map(gflopsOf));
  series[0].markLine = roofLine(look, roof.gflops, `roof ${roof.gflops.toFixed(1)} GFLOP/s: ${roof.what}`);
  // Whole powers of two around the sizes, so that every tick is one.
  const sizes = sweep.map(({ Sq }) => Math.log2(Sq));
  const first = 2 ** Math.floor(Math.min(...sizes));
  const last = 2 ** Math.ceil(Math.max(...sizes));
  const axis = axisOf(look);
  return {
    animation: false,
    backgroundColor: look.background,
    title: titled(
      look,
      `Attention forward, back end ${backend.name}`,
      `B 1, H ${H}, D ${D}, ${dtype}, ${machine.name}, ${backend.device}`,
    ),
    legend: { data: ["full", "causal"], right: 24, bottom: 8, textStyle: { color: look.text, fontSize: 13 } },
    grid: { left: 72, right: 32, top: 76, bottom: 66 },
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
