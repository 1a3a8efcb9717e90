/** Result files as one page of HTML that is whole in itself: no script, style, font or picture comes from elsewhere. */
import { gpuName } from "./gpu-comparison.ts";
import { bytes, milliseconds, rate, spread, timerNotes, whyNotMeasured } from "./columns.ts";
import { TARGET_COLUMNS, targetRow } from "./comparison.ts";
import { comparisonChart, gpuCharts, renderSvg, rooflineChart, sweepChart, type ChartOption } from "./plot.ts";
import { isMeasured, type ContestFile, type Outcome, type ResultsFile, type RunFile } from "./results.ts";
import { outcomesOf, rooflineNotes, rooflineOf, runnersOf, type Point } from "./roofline.ts";

export interface NamedResults {
  /** Of the file. */
  readonly name: string;
  readonly file: ResultsFile;
}

/** A cell, and what its column is sorted by where that is not the text. */
interface Cell {
  readonly text: string;
  readonly value?: number | undefined;
  readonly alarming?: boolean | undefined;
}

export function reportPage(results: readonly NamedResults[]): string {
  const sections = results.map(section).join("\n");
  const contents = results.map(
    ({ name, file }, n) => `<li><a href="#file-${n}">${text(file.machine.name)}</a> ${text(name)}</li>`,
  );
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>@fa results</title>
<style>${STYLE}</style>
</head>
<body>
<h1>@fa results</h1>
<p>Every time below stands beside a verification that passed: a case whose answer was wrong has none, and a library that failed is shown as
failed. Times are medians; the spread is half the distance of the quartiles; first calls stand apart and warm-up is left out. Press a heading
to sort by it.</p>
${results.length > 1 ? `<ul>${contents.join("")}</ul>` : ""}
${sections}
<script>${SCRIPT}</script>
</body>
</html>
`;
}

function section({ name, file }: NamedResults, n: number): string {
  const charts =
    file.kind === "run"
      ? [sweepChart(file), rooflineChart(file)]
      : [comparisonChart(file), ...gpuCharts(file), rooflineChart(file)];
  return `<section id="file-${n}">
<h2>${text(file.machine.name)}</h2>
${file.complete ? "" : `<p class="alarm">This run was stopped before its end.</p>`}
${factsList([["file", name], ...(file.kind === "run" ? runFacts(file) : contestFacts(file)), ...machineFacts(file)])}
${charts.map(figure).join("\n")}
${outcomesTable(file)}
${file.kind === "contest" ? targets(file) : ""}
</section>`;
}

type Facts = readonly (readonly [string, string])[];

function machineFacts(file: ResultsFile): Facts {
  const { machine, date, commit } = file;
  return [
    ["processor", `${machine.cpu}, ${machine.cores} ${machine.cores === 1 ? "core" : "cores"}`],
    ["platform", `${machine.platform}, ${machine.runtime}`],
    ["commit", commit ?? "unknown"],
    ["date", date],
    ...timerNotes(outcomesOf(file)).map((note) => ["timed by", note] as const),
    ...rooflineNotes(rooflineOf(file).roofs).map((note) => {
      const [, what, rest] = /^(\S+) +(.*)$/.exec(note)!;
      return [what, rest] as const;
    }),
  ];
}

function runFacts({ backend, candidates }: RunFile): Facts {
  const { name, device, identity } = backend;
  return [
    ["back end", `${name}, ${device}`],
    ...(identity ? [["driver and version", identity] as const] : []),
    ...candidates.filter(({ taken }) => !taken).map((one) => [`not ${one.name}`, one.reason] as const),
  ];
}

function contestFacts({ contestOf, gpu, contestants }: ContestFile): Facts {
  return [
    ["back end", `${contestOf}, beside other libraries, taking turns`],
    ...(gpu ? [["GPU and driver", gpuName(gpu)] as const] : []),
    ...contestants.map(({ name, threads, what, takesPart }) => {
      const who = threads > 1 ? `${name}, ${threads} threads` : name;
      return [who, takesPart ? what : `takes no part: ${what}`] as const;
    }),
  ];
}

function factsList(facts: Facts): string {
  return `<dl>${facts.map(([term, fact]) => `<dt>${text(term)}</dt><dd>${text(fact)}</dd>`).join("")}</dl>`;
}

function figure(chart: ChartOption | undefined): string {
  if (!chart) return "";
  const { text: title = "chart" } = chart.title as { readonly text?: string };
  return `<figure role="img" aria-label="${text(title)}">${renderSvg(chart)}</figure>`;
}

const COLUMNS = [
  "case",
  "who",
  "pass",
  "dtype",
  "ms",
  "spread",
  "first ms",
  "GFLOP/s",
  "flop/byte",
  "of bound",
  "memory",
  "error",
  "kernel",
  "verified against",
] as const;

/** Every case with every contestant. */
function outcomesTable(file: ResultsFile): string {
  const { points } = rooflineOf(file);
  const placed = [...points];
  const whoOf = runnersOf(file);
  const rows = outcomesOf(file).map((outcome): Cell[] => {
    // Points are of the measured cases, in their order.
    const point = isMeasured(outcome) ? placed.shift() : undefined;
    return [
      { text: outcome.title },
      { text: whoOf(outcome) },
      { text: outcome.Sq === 1 ? "decode" : outcome.pass },
      { text: outcome.dtype },
      ...numbersOf(outcome, point),
    ];
  });
  return table(COLUMNS, rows);
}

function numbersOf(outcome: Outcome, point: Point | undefined): Cell[] {
  if (!isMeasured(outcome) || !point) {
    const alarming = outcome.outcome === "wrong" || outcome.outcome === "failed";
    const why = isMeasured(outcome) ? "" : whyNotMeasured(outcome);
    const empty = Array.from({ length: COLUMNS.length - 5 }, (): Cell => ({ text: "" }));
    return [...empty, { text: why, alarming }];
  }
  const { timing, peakBytes, verification, kernel = "" } = outcome;
  const { bound, gflops, intensity } = point;
  const [median, half] = spread(timing).split(" ± ");
  const share = bound === null ? undefined : gflops / bound;
  return [
    { text: median, value: timing.medianMs },
    { text: `± ${half}`, value: timing.highMs - timing.lowMs },
    { text: milliseconds(timing.firstMs), value: timing.firstMs },
    { text: rate(gflops), value: gflops },
    { text: String(Number(intensity.toPrecision(3))), value: intensity },
    { text: share === undefined ? "" : `${(100 * share).toFixed(0)} %`, value: share },
    { text: peakBytes === null ? "" : bytes(peakBytes), value: peakBytes ?? undefined },
    { text: Math.sqrt(verification.meanSquareError).toExponential(1), value: verification.meanSquareError },
    { text: kernel },
    { text: verification.against },
  ];
}

function targets({ targets: all }: ContestFile): string {
  if (all.length === 0) return "";
  const rows = all.map((target) => targetRow(target).map((one): Cell => ({ text: one, alarming: one === "missed" })));
  return `<h3>What is required</h3>${table(TARGET_COLUMNS, rows)}`;
}

function table(columns: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const heads = columns.map((column) => `<th scope="col"><button type="button">${text(column)}</button></th>`);
  const lines = rows.map((row) => `<tr>${row.map(cell).join("")}</tr>`);
  return `<div class="wide"><table><thead><tr>${heads.join("")}</tr></thead><tbody>\n${lines.join("\n")}\n</tbody></table></div>`;
}

function cell({ text: shown, value, alarming }: Cell): string {
  const sorted = value === undefined ? "" : ` data-value="${value}"`;
  return `<td${sorted}${alarming ? ` class="alarm"` : ""}>${text(shown)}</td>`;
}

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

/** Whatever a file says is text, never markup. */
function text(plain: string): string {
  return plain.replace(/[&<>"']/g, (sign) => ENTITIES[sign]);
}

const STYLE = `
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 75rem; margin: 0 auto; padding: 1rem; }
section { border-top: 1px solid #8888; margin-top: 2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; font-size: 0.9rem; }
dt { opacity: 0.7; }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1rem 0; max-width: 54rem; }
figure svg { width: 100%; height: auto; border-radius: 6px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
td, th { padding: 0.15rem 0.6rem; text-align: left; white-space: nowrap; border-bottom: 1px solid #8883; }
td[data-value] { text-align: right; }
td:last-child { white-space: normal; min-width: 24rem; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid; }
th[aria-sort=ascending] button::after { content: " \\2191" / ""; }
th[aria-sort=descending] button::after { content: " \\2193" / ""; }
.alarm { color: #cf222e; font-weight: 600; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dt { margin-top: 0.4rem; } }
`;

/** Sorts by a column: by its values where it has any, up and then down; what has no value stays last. */
const SCRIPT = `
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const at = head.cellIndex;
    const isNumeric = [...body.rows].some((row) => row.cells[at].dataset.value !== undefined);
    const keyOf = (row) => isNumeric ? Number(row.cells[at].dataset.value ?? NaN) : row.cells[at].textContent;
    const lacks = (key) => Number.isNaN(key) || key === "";
    const sign = down ? -1 : 1;
    const compare = (a, b) => lacks(a) || lacks(b) ? lacks(a) - lacks(b) : sign * (isNumeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
    body.append(...[...body.rows].sort((a, b) => compare(keyOf(a), keyOf(b))));
  });
}
`;
