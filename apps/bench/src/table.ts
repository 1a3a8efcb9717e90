import Table from "cli-table3";
import { cells, COLUMNS, footnotes, headingOf, labelOf, whyNotMeasured } from "./columns.ts";
import { comparisonRows, COMPARISON_NOTE, headingOf as comparisonHeading, targetRow } from "./comparison.ts";
import { CUDA_NOTE, cudaRoofs, cudaTables } from "./cuda-comparison.ts";
import { GPU_NOTE, gpuRoofs, gpuTables, type GpuTable } from "./gpu-comparison.ts";
import { roofOf, type ContestFile, type ResultsFile, type RunFile } from "./results.ts";
import { rooflineCells, rooflineNotes, rooflineOf, ROOFLINE_COLUMNS } from "./roofline.ts";
import { amount, type TargetOutcome } from "./target.ts";

export interface TableStyle {
  /** How a wrong or failed line is made to stand out. */
  readonly alarm?: ((text: string) => string) | undefined;
  readonly quiet?: ((text: string) => string) | undefined;
}

/** No lines: two spaces between columns. */
const LINES = ["top", "bottom", "left", "right", "mid"].flatMap((side) => [
  side,
  ...["mid", "left", "right"].map((corner) => `${side}-${corner}`),
]);
const SPACED = { ...Object.fromEntries(LINES.map((line) => [line, ""])), middle: "  " };

/** All outcomes as a table for a terminal of 100 columns, grouped, with what the columns mean below. */
export function resultsTable(
  file: Pick<RunFile, "outcomes" | "roof" | "matrixRoof">,
  { alarm = same, quiet = same }: TableStyle = {},
): string {
  const { outcomes } = file;
  const table = spaced(COLUMNS);
  let heading: string | undefined;
  for (const outcome of outcomes) {
    if (headingOf(outcome) !== heading) {
      heading = headingOf(outcome);
      table.push([{ colSpan: COLUMNS.length, content: quiet(heading) }]);
    }
    if (outcome.outcome === "measured") {
      const [title, ...numbers] = cells(outcome, roofOf(file, outcome));
      table.push([`  ${title}`, ...numbers]);
    } else {
      const mark = outcome.outcome === "skipped" ? quiet : alarm;
      table.push([
        `  ${labelOf(outcome)}`,
        { colSpan: COLUMNS.length - 1, hAlign: "left", content: mark(fold(whyNotMeasured(outcome), 58)) },
      ]);
    }
  }
  return [...linesOf(table), "", ...footnotes(file).map(quiet)].join("\n");
}

/** Every measured case of a file under its roofs. */
export function rooflineTable(file: ResultsFile, { quiet = same }: TableStyle = {}): string {
  const { roofs, points } = rooflineOf(file);
  const table = spaced(ROOFLINE_COLUMNS);
  for (const [who, members] of Map.groupBy(points, (point) => point.who)) {
    table.push([{ colSpan: ROOFLINE_COLUMNS.length, content: quiet(who) }]);
    for (const [title, ...rest] of members.map(rooflineCells)) table.push([`  ${title}`, ...rest]);
  }
  return [...linesOf(table), "", ...rooflineNotes(roofs).map(quiet)].join("\n");
}

/** Ours beside the peers, one table for each number of threads and head dim. */
export function comparisonTable(file: ContestFile, { quiet = same }: TableStyle = {}): string {
  const blocks = comparisonRows(file).map((comparison) => {
    const table = spaced([comparisonHeading(comparison), ...comparison.head.slice(1)]);
    for (const row of comparison.rows) table.push([...row]);
    return linesOf(table).join("\n");
  });
  const roof = `of roof: ${file.roof!.gflops.toFixed(1)} GFLOP/s a thread, ${file.roof!.what}`;
  return [...blocks, quiet(`${fold(COMPARISON_NOTE, 98)}\n${roof}`)].join("\n\n");
}

/** Ours by what it may use of a GPU, beside onnxruntime. */
export function gpuTable(file: ContestFile, style: TableStyle = {}): string {
  return gpuBlocks(gpuTables(file), GPU_NOTE, gpuRoofs(file), style);
}

/** Ours on CUDA, beside PyTorch. */
export function cudaTable(file: ContestFile, style: TableStyle = {}): string {
  return gpuBlocks(cudaTables(file), CUDA_NOTE, cudaRoofs(file), style);
}

/** A list of kernels takes several lines. */
const LONGEST_CELL = 46;

function gpuBlocks(tables: readonly GpuTable[], note: string, roofs: string, { quiet = same }: TableStyle): string {
  const blocks = tables.map(({ heading, head: [, ...head], rows }) => {
    const table = spaced([heading, ...head]);
    for (const row of rows) table.push(row.map((cell) => fold(cell, LONGEST_CELL)));
    return linesOf(table).join("\n");
  });
  return [...blocks, quiet(`${fold(note, 98)}\n${fold(`roofs: ${roofs}`, 98)}`)].join("\n\n");
}

/** Every target with all its readings. */
export function targetsTable(
  targets: readonly TargetOutcome[],
  { alarm = same, quiet = same }: TableStyle = {},
): string {
  const indent = " ".repeat(12);
  const width = Math.max(...targets.flatMap(({ readings }) => readings.map((one) => one.case.length)));
  const blocks = targets.map((target) => {
    const [title, required, measured, , state] = targetRow(target);
    const shown = state.padEnd(indent.length);
    const head = `${state === "met" ? shown : alarm(shown)}${title}: ${measured}, required ${required}`;
    const readings = target.readings.map((one) => {
      const said = "value" in one ? amount(one.value, target.unit) : `${one.because}: ${one.reason}`;
      return `${indent}${one.case.padEnd(width)}  ${said}`;
    });
    const how = fold(target.how, 98 - indent.length).replaceAll("\n", `\n${indent}`);
    return [head, ...readings, quiet(`${indent}${how}`)].join("\n");
  });
  const count = (state: TargetOutcome["state"]): number => targets.filter((one) => one.state === state).length;
  const sum = `targets: ${count("met")} met, ${count("missed")} missed, ${count("unmeasured")} not measured`;
  return [...blocks, "", sum].join("\n");
}

function spaced(head: readonly string[]): InstanceType<typeof Table> {
  return new Table({
    head: [...head],
    colAligns: ["left", ...head.slice(1).map(() => "right" as const)],
    chars: SPACED,
    style: { head: [], border: [], "padding-left": 0, "padding-right": 0 },
  });
}

function linesOf(table: InstanceType<typeof Table>): string[] {
  const lines = table.toString().split("\n");
  return lines.map((line) => line.trimEnd()).filter(Boolean);
}

function same(text: string): string {
  return text;
}

/** Breaks a line at spaces. */
function fold(text: string, width: number): string {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines.at(-1)!;
    if (line && line.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = line ? `${line} ${word}` : word;
  }
  return lines.join("\n");
}
