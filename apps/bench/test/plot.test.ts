import { expect, test } from "vitest";
import { comparisonChart, gpuCharts, renderSvg, rooflineChart, sweepChart } from "../src/plot.ts";
import { GPU_TFLOPS, madeContest, madeGpuContest, madeResults } from "./made.ts";

test("the chart names its axes and units, both lines, the roof, the back end and the machine", () => {
  const svg = renderSvg(sweepChart(madeResults())!);
  expect(svg).toMatch(/^<svg [^>]*xmlns="http:\/\/www\.w3\.org\/2000\/svg"/);
  for (const text of [
    "Attention forward, back end wasm",
    "B 1, H 8, D 64, float32, a machine, a device",
    "sequence length S (tokens)",
    "speed (GFLOP/s, visible pairs)",
    "roof 64.0 GFLOP/s: made for a test",
    "full",
    "causal",
    "128",
    "4096",
  ]) {
    expect(svg).toContain(`>${text}</text>`);
  }
  expect(svg).toContain('fill="#ffffff"');
  expect(svg).not.toMatch(/NaN|undefined|<script/);
});

test("every measured size is a point of its line, at its GFLOP/s", () => {
  const { series } = sweepChart(madeResults())! as { series: { name: string; data: [number, number][] }[] };
  expect(series.map(({ name }) => name)).toEqual(["full", "causal"]);
  for (const { data } of series) {
    expect(data.map(([S]) => S)).toEqual([128, 4096]);
    for (const [, gflops] of data) expect(gflops).toBeCloseTo(32, 9);
  }
});

test("one size, and a size that is no power of two, still make a chart", () => {
  const outcomes = madeResults().outcomes.slice(0, 2);
  for (const S of [128, 100]) {
    const svg = renderSvg(sweepChart(madeResults({ outcomes: outcomes.map((outcome) => ({ ...outcome, Sq: S })) }))!);
    expect(svg).not.toMatch(/NaN|undefined|Infinity/);
    expect(svg).toContain(">128</text>");
  }
});

test("there is no chart without a measured size", () => {
  expect(sweepChart(madeResults({ outcomes: [] }))).toBeUndefined();
});

test("a comparison has a bar for every library and size in two panels, and says where one fails", () => {
  const option = comparisonChart(madeContest())! as {
    series: { name: string; xAxisIndex: number; data: { value: number }[] }[];
  };
  const bars = option.series.map(({ name, xAxisIndex, data }) => [name, xAxisIndex, ...data.map(({ value }) => value)]);
  expect(bars.map((bar) => bar.map((x) => (typeof x === "number" ? Math.round(x) : x)))).toEqual([
    ["ours", 0, 50, 50],
    ["onnxruntime-web", 0, 20, 0],
    ["ours", 1, 50, 50],
    ["onnxruntime-web", 1, 20, 0],
  ]);
  const svg = renderSvg(option);
  expect(svg.match(/>fails<\/text>/g)).toHaveLength(2);
  for (const text of ["onnxruntime-web", "roof 64.0", "512", "full: sequence length S (tokens)"]) {
    expect(svg).toContain(`>${text}</text>`);
  }
  expect(svg).not.toMatch(/NaN|undefined/);
  const { entries } = madeContest();
  expect(comparisonChart(madeContest({ entries: entries.filter((e) => e.contestant === "ours/1") }))).toBeUndefined();
});

test("on a GPU every dtype and head dim has a chart of everybody's rates, full and causal", () => {
  expect(gpuCharts(madeContest())).toEqual([]);
  const charts = gpuCharts(madeGpuContest()).map(renderSvg);
  expect(charts).toHaveLength(4);
  for (const text of ["Attention forward, float16, D 64", "full: sequence length S (tokens)", "tier matrix", "8192"]) {
    expect(charts[0]).toContain(`>${text}</text>`);
  }
  const [{ series }] = gpuCharts(madeGpuContest()) as unknown as [{ series: { name: string; data: number[] }[] }];
  const matrix = series.find(({ name }) => name === "tier matrix")!;
  expect(matrix.data.every((rate) => Math.abs(rate - GPU_TFLOPS["ours/matrix"]) < 1e-6)).toBe(true);
  expect(charts.join("")).not.toMatch(/NaN|undefined|Infinity/);
});

test("a roofline has its slope, its roof and a dot for every case", () => {
  const svg = renderSvg(rooflineChart(madeResults())!);
  for (const text of ["64.0 GFLOP/s: made for a test", "10.0 GB/s", "arithmetic intensity (flop/byte)", "wasm"]) {
    expect(svg).toContain(`>${text}</text>`);
  }
  const { series } = rooflineChart(madeResults())! as { series: { data: [number, number][] }[] };
  expect(series).toHaveLength(1);
  expect(series[0].data).toHaveLength(4);
  // S 128 in float32: 128 / 4 flop a byte, but for lse.
  expect(series[0].data[0][0]).toBeCloseTo(32, 0);
  expect(svg).not.toMatch(/NaN|undefined|Infinity/);
  expect(rooflineChart(madeResults({ outcomes: [] }))).toBeUndefined();
  // Without a rate of memory there is no slope.
  expect(renderSvg(rooflineChart(madeResults({ bandwidth: null }))!)).not.toContain("GB/s<");
});
