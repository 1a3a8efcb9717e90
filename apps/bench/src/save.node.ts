/** Files that are written, whole or not at all. */
import { rename, rm, writeFile } from "node:fs/promises";
import { extname } from "node:path";
import { renderSvg, type ChartOption } from "./plot.ts";
import { formatResults, type ResultsFile } from "./results.ts";
import type { Terminal } from "./terminal.node.ts";

/**
 * Writes results and their chart where they were asked for.
 * @param suffix goes before the ending of the names: "-wasm"
 */
export async function save(
  file: ResultsFile,
  chartOf: () => ChartOption | undefined,
  { json, plot }: { readonly json?: string | undefined; readonly plot?: string | undefined },
  terminal: Terminal,
  suffix = "",
): Promise<void> {
  if (json !== undefined) await saveText(withSuffix(json, suffix), formatResults(file), "results", terminal);
  if (plot === undefined) return;
  const chart = chartOf();
  if (chart) await saveText(withSuffix(plot, suffix), renderSvg(chart), "chart", terminal);
  else terminal.print(`\nno chart: no size of the sweep was measured`);
}

export async function saveText(path: string, text: string, what: string, terminal: Terminal): Promise<void> {
  await replaceFile(path, text);
  terminal.print(`\n${what} written to ${path}`);
}

/** Whole or not at all: whoever reads the file never sees half of it. */
export async function replaceFile(path: string, text: string): Promise<void> {
  const part = `${path}.${process.pid}.part`;
  try {
    await writeFile(part, text);
    await rename(part, path);
  } catch (error) {
    await rm(part, { force: true });
    throw error;
  }
}

function withSuffix(path: string, suffix: string): string {
  const extension = extname(path);
  return `${path.slice(0, path.length - extension.length)}${suffix}${extension}`;
}
