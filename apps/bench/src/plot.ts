import { LineChart, type LineSeriesOption } from "echarts/charts";
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
import { gflopsOf, isMeasured, type ResultsFile } from "./results.ts";

use([LineChart, GridComponent, LegendComponent, MarkLineComponent, TitleComponent, SVGRenderer]);

export type ChartOption = ComposeOption<
  LineSeriesOption | GridComponentOption | LegendComponentOption | MarkLineComponentOption | TitleComponentOption
>;

const TEXT = "#1f2328";
const FAINT = "#59636e";
const LINES = { full: "#0969da", causal: "#bc4c00" };
const ROOF = "#8250df";

/** GFLOP/s over S, causal and not, under the roof; undefined when the run measured no sweep. */
export function sweepChart({ outcomes, roof, backend, machine }: ResultsFile): ChartOption | undefined {
  const sweep = outcomes.filter(isMeasured).filter(({ group }) => group === "sweep");
  if (sweep.length === 0) return undefined;
  const { H, D, dtype } = sweep[0];
  const series = [false, true].map((causal): LineSeriesOption => {
    const points = sweep.filter((outcome) => outcome.causal === causal).map((o) => [o.S, gflopsOf(o)]);
    const color = causal ? LINES.causal : LINES.full;
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
  series[0].markLine = {
    silent: true,
    symbol: "none",
    lineStyle: { color: ROOF, type: "dashed", width: 1.5 },
    label: {
      position: "insideStartTop",
      formatter: `roof ${roof.gflops.toFixed(1)} GFLOP/s: ${roof.what}`,
      color: ROOF,
      fontSize: 12,
    },
    data: [{ yAxis: roof.gflops }],
  };
  // Whole powers of two around the sizes, so that every tick is one.
  const sizes = sweep.map(({ S }) => Math.log2(S));
  const first = 2 ** Math.floor(Math.min(...sizes));
  const last = 2 ** Math.ceil(Math.max(...sizes));
  const axis = {
    nameLocation: "middle",
    nameTextStyle: { color: TEXT, fontSize: 13 },
    axisLabel: { color: FAINT, fontSize: 12 },
    axisLine: { show: true, lineStyle: { color: FAINT } },
    splitLine: { lineStyle: { color: "#d1d9e0" } },
  } as const;
  return {
    animation: false,
    backgroundColor: "#ffffff",
    title: {
      text: `Attention forward, back end ${backend.name}`,
      subtext: `B 1, H ${H}, D ${D}, ${dtype}, ${machine.name}, ${backend.device}`,
      left: "center",
      top: 8,
      textStyle: { color: TEXT, fontSize: 17 },
      subtextStyle: { color: FAINT, fontSize: 12, width: WIDTH - 60, overflow: "truncate" },
    },
    legend: { data: ["full", "causal"], right: 24, bottom: 8, textStyle: { color: TEXT, fontSize: 13 } },
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
