import Table from "cli-table3";
import type { Roof } from "@fa/core";
import type { Group } from "./cases.ts";
import { cells, COLUMNS, footnotes, headingOf, whyNotMeasured } from "./columns.ts";
import type { Outcome } from "./results.ts";

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
  outcomes: readonly Outcome[],
  roof: Roof,
  { alarm = same, quiet = same }: TableStyle = {},
): string {
  const table = new Table({
    head: [...COLUMNS],
    colAligns: ["left", ...COLUMNS.slice(1).map(() => "right" as const)],
    chars: SPACED,
    style: { head: [], border: [], "padding-left": 0, "padding-right": 0 },
  });
  let group: Group | undefined;
  for (const outcome of outcomes) {
    if (outcome.group !== group) {
      group = outcome.group;
      table.push([{ colSpan: COLUMNS.length, content: quiet(headingOf(outcome)) }]);
    }
    if (outcome.outcome === "measured") {
      const [title, ...numbers] = cells(outcome, roof);
      table.push([`  ${title}`, ...numbers]);
    } else {
      const mark = outcome.outcome === "skipped" ? quiet : alarm;
      table.push([
        `  ${outcome.title}`,
        { colSpan: COLUMNS.length - 1, hAlign: "left", content: mark(fold(whyNotMeasured(outcome), 58)) },
      ]);
    }
  }
  const lines = table.toString().split("\n");
  return [...lines.map((line) => line.trimEnd()).filter(Boolean), "", ...footnotes(roof).map(quiet)].join("\n");
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
