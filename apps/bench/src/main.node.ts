import { rename, writeFile } from "node:fs/promises";
import { FaError, type Attention, type CandidateReport } from "@fa/core";
import { createAttention } from "@fa/core/auto";
import { bench } from "./bench.ts";
import { moduleCases, sweepCases, tutorialCases, type Case } from "./cases.ts";
import { spread, whyNotMeasured } from "./columns.ts";
import { goldenModule } from "./golden.ts";
import { compare } from "./compare.node.ts";
import type { Arena } from "./field.node.ts";
import { currentCommit, readGolden, thisMachine } from "./machine.node.ts";
import { CommanderError, parseOptions, type Options } from "./options.node.ts";
import { comparisonChart, renderSvg, sweepChart, type ChartOption } from "./plot.ts";
import { formatResults, SCHEMA, VERSION, type Outcome, type ResultsFile, type RunFile } from "./results.ts";
import { resultsTable } from "./table.ts";
import { progress, styleOf, TERMINAL, type Terminal } from "./terminal.node.ts";

export interface Surroundings {
  readonly terminal?: Terminal | undefined;
  /** Aborted to stop the run; the reason is the exit code. */
  readonly signal?: AbortSignal | undefined;
  /** Opens a back end; the best that is installed unless given. */
  readonly open?: (() => Promise<Attention>) | undefined;
  /** Who takes part in a comparison; those that are installed unless given. */
  readonly openArena?: (() => Arena) | undefined;
}

/** The app. Resolves to its exit code; complaints are lines, never stack traces, unless the fault is ours. */
export async function main(argv: readonly string[], surroundings: Surroundings = {}): Promise<number> {
  const { terminal = TERMINAL, signal = new AbortController().signal } = surroundings;
  try {
    const options = parseOptions(argv, terminal);
    if (options.peers || options.targets !== undefined) {
      return await runComparison(options, terminal, signal, surroundings.openArena);
    }
    return await run(options, terminal, signal, surroundings.open ?? opener(options.backend));
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode;
    if (signal.aborted && error === signal.reason) return stopped(terminal, signal);
    if (!(error instanceof FaError) && !isFileError(error)) throw error;
    terminal.complain(`fa-bench: ${error.message}`);
    return 1;
  }
}

async function run(
  options: Options,
  terminal: Terminal,
  signal: AbortSignal,
  open: () => Promise<Attention>,
): Promise<number> {
  const cases = await casesOf(options);
  const { report, backend, roof } = await firstLook(open);
  terminal.print(reportLines(report).join("\n"));
  terminal.print(`\ndevice  ${backend.device}\nroof    ${roof.gflops.toFixed(1)} GFLOP/s, ${roof.what}\n`);

  const outcomes: Outcome[] = [];
  const { quick, budget } = options;
  const shown = progress(terminal, cases.length);
  let complete = true;
  try {
    shown.begin(cases[0].facts.title);
    const settings = { open, budgetMs: budget * 1000, sampleMs: quick ? 40 : 600, signal };
    for await (const outcome of bench(cases, settings)) {
      outcomes.push(outcome);
      shown.end(outcomeLine(outcome));
      shown.begin(cases[outcomes.length]?.facts.title ?? "");
    }
  } catch (error) {
    if (!signal.aborted || error !== signal.reason) throw error;
    complete = false;
  } finally {
    shown.stop();
  }

  const file: RunFile = {
    schema: SCHEMA,
    version: VERSION,
    kind: "run",
    machine: thisMachine(options.machine),
    date: new Date().toISOString(),
    commit: currentCommit(),
    backend,
    candidates: report,
    roof,
    complete,
    outcomes,
  };
  if (outcomes.length > 0) {
    terminal.print(`${terminal.isTTY ? "" : "\n"}${resultsTable(outcomes, roof, styleOf(terminal))}`);
  }
  await save(file, sweepChart(file), options, terminal);
  if (!complete) return stopped(terminal, signal);
  return outcomes.some(({ outcome }) => outcome === "wrong" || outcome === "failed") ? 1 : 0;
}

/** @throws FaError for sizes that attention refuses */
async function casesOf(options: Options): Promise<Case[]> {
  const golden = goldenModule(await readGolden(), options.quick ? "module" : "big");
  return [...tutorialCases(), ...moduleCases(golden), ...sweepCases(options)];
}

/** What is there, and what it can do at best. */
async function firstLook(open: () => Promise<Attention>) {
  await using fa = await open();
  const { name, device } = fa.backend;
  return { report: fa.report, backend: { name, device }, roof: await fa.roof() };
}

/** Opens the back end of this name, or the best that is installed, and from then on the same. */
function opener(name: string | undefined): () => Promise<Attention> {
  let wanted = name;
  return async () => {
    // How `@fa/core/auto` is told to try one alone.
    if (wanted !== undefined) process.env.FA_BACKEND = wanted;
    const fa = await createAttention({ import: (specifier) => import(specifier) });
    wanted = fa.backend.name;
    return fa;
  };
}

async function runComparison(
  options: Options,
  terminal: Terminal,
  signal: AbortSignal,
  openArena: (() => Arena) | undefined,
): Promise<number> {
  const { file, exitCode } = await compare(options, terminal, signal, openArena);
  await save(file, comparisonChart(file), options, terminal);
  return file.complete ? exitCode : stopped(terminal, signal);
}

async function save(
  file: ResultsFile,
  chart: ChartOption | undefined,
  { json, plot }: Options,
  terminal: Terminal,
): Promise<void> {
  if (json !== undefined) {
    await replaceFile(json, formatResults(file));
    terminal.print(`\nresults written to ${json}`);
  }
  if (plot !== undefined) {
    if (chart) await replaceFile(plot, renderSvg(chart));
    terminal.print(chart ? `\nchart written to ${plot}` : `\nno chart: no size of the sweep was measured`);
  }
}

function stopped(terminal: Terminal, signal: AbortSignal): number {
  terminal.print("\nstopped");
  return signal.reason as number;
}

/** Whole or not at all: whoever reads the file never sees half of it. */
async function replaceFile(path: string, text: string): Promise<void> {
  const part = `${path}.${process.pid}.part`;
  await writeFile(part, text);
  await rename(part, path);
}

function reportLines(report: readonly CandidateReport[]): string[] {
  const width = Math.max(...report.map(({ name }) => name.length));
  return report.map(
    ({ name, taken, reason }) => `${name.padEnd(width)}  ${(taken ? "taken" : "not taken").padEnd(9)}  ${reason}`,
  );
}

function outcomeLine(outcome: Outcome): string {
  if (outcome.outcome !== "measured") return `${outcome.id}  ${whyNotMeasured(outcome)}`;
  return `${outcome.id}  ${spread(outcome.timing)} ms, verified: ${outcome.verification.against}`;
}

function isFileError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && typeof (error as NodeJS.ErrnoException).syscall === "string";
}
