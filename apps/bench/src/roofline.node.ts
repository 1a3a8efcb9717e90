/** `roofline`: every result under what its machine allows. */
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { askedCases, type AskedPass } from "./asked-cases.ts";
import type { RooflineOptions } from "./commands.node.ts";
import { rooflineChart } from "./plot.ts";
import { parseResults, SCHEMA, VERSION, type ResultsFile } from "./results.ts";
import { rooflineOf } from "./roofline.ts";
import { exitCodeOf, paceOf, runOn } from "./run.node.ts";
import { save, saveText } from "./save.node.ts";
import { stationOf } from "./station.node.ts";
import { rooflineTable } from "./table.ts";
import { styleOf, type Terminal } from "./terminal.node.ts";

/** What is measured where no results are given: work for the arithmetic, and for the memory. */
const SWEEPS: Readonly<Record<AskedPass, readonly number[]>> = {
  forward: [128, 512, 2048],
  backward: [512],
  decode: [2048, 16384],
};

/** @returns the exit code */
export async function roofline(options: RooflineOptions, terminal: Terminal, signal: AbortSignal): Promise<number> {
  return options.files.length > 0 ? place(options, terminal) : measure(options, terminal, signal);
}

async function place({ files, json, plot }: RooflineOptions, terminal: Terminal): Promise<number> {
  const read = await Promise.all(files.map(readResults));
  const placed = read.map(({ name, file }) => ({ name, machine: file.machine, ...rooflineOf(file) }));
  for (const [n, { name, file }] of read.entries()) {
    terminal.print(`${n === 0 ? "" : "\n"}${name}: ${file.machine.name}\n`);
    terminal.print(rooflineTable(file, styleOf(terminal)));
    const suffix = read.length > 1 ? `-${basename(name, ".json")}` : "";
    await save(file, () => rooflineChart(file), { plot }, terminal, suffix);
  }
  if (json !== undefined) {
    const text = JSON.stringify({ schema: SCHEMA, version: VERSION, kind: "roofline", files: placed }, null, 2);
    await saveText(json, `${text}\n`, "places", terminal);
  }
  return 0;
}

async function measure(options: RooflineOptions, terminal: Terminal, signal: AbortSignal): Promise<number> {
  const { dtypes, budget, machine } = options;
  const cases = Object.entries(SWEEPS).flatMap(([pass, sizes]) =>
    askedCases({ passes: [pass as AskedPass], dtypes, sizes, batch: 1, heads: 8, dim: 64 }),
  );
  const file = await runOn(stationOf(options), cases, paceOf(budget, cases.length), terminal, signal, machine);
  terminal.print(`\n${rooflineTable(file, styleOf(terminal))}`);
  await save(file, () => rooflineChart(file), options, terminal);
  return file.complete ? exitCodeOf(file) : (signal.reason as number);
}

export async function readResults(path: string): Promise<{ readonly name: string; readonly file: ResultsFile }> {
  return { name: path, file: parseResults(await readFile(path, "utf8"), path) };
}
