/** One back end over its cases: verified, measured, shown as it comes. */
import { FaError } from "@fa/core";
import { askedCases } from "./asked-cases.ts";
import { bench } from "./bench.ts";
import type { Case } from "./cases.ts";
import { spread, whyNotMeasured } from "./columns.ts";
import type { RunOptions } from "./commands.node.ts";
import { currentCommit, thisMachine } from "./machine.node.ts";
import { sweepChart } from "./plot.ts";
import { SCHEMA, VERSION, type Outcome, type RunFile } from "./results.ts";
import { save } from "./save.node.ts";
import { firstLook, lookAgain, stationOf, type FirstLook, type Station } from "./station.node.ts";
import { resultsTable } from "./table.ts";
import { progress, styleOf, type Terminal } from "./terminal.node.ts";

export interface Pace {
  /** What all cases together may take. */
  readonly budgetMs: number;
  /** What the samples of one case may take. */
  readonly sampleMs: number;
}

/** What a case's samples may take at most, and what share of the budget all of them together. */
const SAMPLE_MS = 600;
const SAMPLING = 1 / 2;

/** Every case has its turn: samples are shorter where there are many. */
export function paceOf(budgetSeconds: number, cases: number): Pace {
  const budgetMs = budgetSeconds * 1000;
  return { budgetMs, sampleMs: Math.min(SAMPLE_MS, (SAMPLING * budgetMs) / cases) };
}

/** @returns the exit code; that of the signal if it stopped the run, after what was measured has been saved */
export async function run(options: RunOptions, terminal: Terminal, signal: AbortSignal): Promise<number> {
  const cases = askedCases(options);
  const names = options.backends ?? [undefined];
  const pace = paceOf(options.budget, cases.length);
  let code = 0;
  for (const name of names) {
    const station = stationOf({ ...options, backends: name === undefined ? undefined : [name] });
    try {
      const file = await runOn(station, cases, pace, terminal, signal, options.machine);
      const ofSeveral = names.length > 1 ? `-${name}` : "";
      await save(file, () => sweepChart(file), options, terminal, ofSeveral);
      if (signal.aborted) return signal.reason as number;
      code ||= exitCodeOf(file);
    } catch (error) {
      // One of several that is not there leaves the others their turn.
      if (!(error instanceof FaError) || names.length === 1) throw error;
      terminal.complain(`fa-bench: ${error.message}`);
      code = 1;
    }
  }
  return code;
}

/** 1 when an answer was wrong or a case failed. */
export function exitCodeOf({ outcomes }: RunFile): number {
  return outcomes.some(({ outcome }) => outcome === "wrong" || outcome === "failed") ? 1 : 0;
}

/** Runs the cases on one back end, and prints what becomes of them. */
export async function runOn(
  station: Station,
  cases: readonly Case[],
  pace: Pace,
  terminal: Terminal,
  signal: AbortSignal,
  machine?: string,
): Promise<RunFile> {
  let look = await firstLook(station);
  terminal.print(lookLines(look).join("\n"));

  const outcomes: Outcome[] = [];
  const shown = progress(terminal, cases.length);
  let complete = true;
  try {
    shown.begin(cases[0].facts.title);
    for await (const outcome of bench(cases, { ...station, ...pace, signal })) {
      outcomes.push(outcome);
      shown.end(outcomeLine(outcome));
      shown.begin(cases[outcomes.length]?.facts.title ?? "");
    }
    look = await lookAgain(look, station);
  } catch (error) {
    if (!signal.aborted || error !== signal.reason) throw error;
    complete = false;
  } finally {
    shown.stop();
  }

  const { report: candidates, ...facts } = look;
  if (outcomes.length > 0) {
    terminal.print(`${terminal.isTTY ? "" : "\n"}${resultsTable({ ...look, outcomes }, styleOf(terminal))}`);
  }
  return {
    schema: SCHEMA,
    version: VERSION,
    kind: "run",
    machine: thisMachine(machine),
    date: new Date().toISOString(),
    commit: currentCommit(),
    ...facts,
    candidates,
    complete,
    outcomes,
  };
}

function lookLines({ report, backend, roof, matrixRoof, bandwidth }: FirstLook): string[] {
  const width = Math.max(...report.map(({ name }) => name.length));
  const roofs = [roof, matrixRoof].filter((one) => one !== undefined);
  return [
    ...report.map(
      ({ name, taken, reason }) => `${name.padEnd(width)}  ${(taken ? "taken" : "not taken").padEnd(9)}  ${reason}`,
    ),
    `\ndevice  ${backend.device}`,
    ...roofs.map(({ gflops, what }) => `roof    ${gflops.toFixed(1)} GFLOP/s, ${what}`),
    ...(bandwidth ? [`memory  ${bandwidth.gbs.toFixed(1)} GB/s, ${bandwidth.what}`] : []),
    "",
  ];
}

function outcomeLine(outcome: Outcome): string {
  if (outcome.outcome !== "measured") return `${outcome.id}  ${whyNotMeasured(outcome)}`;
  return `${outcome.id}  ${spread(outcome.timing)} ms, verified: ${outcome.verification.against}`;
}
