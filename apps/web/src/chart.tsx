import type { VNode } from "preact";
import type { ChartOption, Look } from "@fa/bench";
import { AriaComponent, TooltipComponent } from "echarts/components";
import { init, use, type EChartsType } from "echarts/core";
import { CanvasRenderer } from "echarts/renderers";
import { useEffect, useRef, useState } from "preact/hooks";

use([AriaComponent, CanvasRenderer, TooltipComponent]);

/** Those of page.css. */
const DAY: Look = {
  background: "#ffffff",
  text: "#1f2328",
  faint: "#59636e",
  grid: "#d1d9e0",
  full: "#0860ca",
  causal: "#a8400a",
  roof: "#7940c9",
};
const NIGHT: Look = {
  background: "#0d1117",
  text: "#e6edf3",
  faint: "#9da7b3",
  grid: "#30363d",
  full: "#58a6ff",
  causal: "#f0883e",
  roof: "#c297ff",
};

const DARK = matchMedia("(prefers-color-scheme: dark)");

/** The look of the page as it is now, and when it changes. */
export function useLook(): Look {
  const [isDark, setDark] = useState(DARK.matches);
  useEffect(() => {
    const follow = (): void => setDark(DARK.matches);
    DARK.addEventListener("change", follow);
    return () => DARK.removeEventListener("change", follow);
  }, []);
  return isDark ? NIGHT : DAY;
}

/** A chart as wide as its place. What it shows is said in `label`, and stands in a table beside it. */
export function Chart({
  option,
  look,
  label,
}: {
  readonly option: ChartOption;
  readonly look: Look;
  readonly label: string;
}): VNode {
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<EChartsType>(undefined);
  useEffect(() => {
    const element = place.current!;
    // A canvas: SVG by script would need inline styles, which the page's policy forbids.
    const made = init(element, null, { renderer: "canvas" });
    chart.current = made;
    const fit = new ResizeObserver(() => made.resize());
    fit.observe(element);
    return () => {
      fit.disconnect();
      made.dispose();
    };
  }, []);
  useEffect(() => {
    chart.current!.setOption(option, { notMerge: true });
    // The page says the title in words of its own, and a phone has no room for the roof's name.
    chart.current!.setOption({
      title: { show: false },
      grid: { left: 56, right: 16, top: 28, bottom: 66 },
      tooltip: {
        trigger: "axis",
        renderMode: "richText",
        valueFormatter: (value: unknown) => `${(value as number).toFixed(1)} GFLOP/s`,
        backgroundColor: look.background,
        textStyle: { color: look.text },
      },
      series: [{ markLine: { label: { formatter: "roof" } } }],
    });
  }, [option, look]);
  return <div ref={place} class="chart" role="img" aria-label={label} />;
}
