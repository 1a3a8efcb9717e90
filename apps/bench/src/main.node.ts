import { FaError, type Attention } from "@fa/core";
import { moduleCases, sweepCases, tutorialCases, type Case } from "./cases.ts";
import { parseCommandLine, type Request } from "./commands.node.ts";
import { compare } from "./compare.node.ts";
import { explain } from "./explain.node.ts";
import type { Arena } from "./field.node.ts";
import { goldenModule } from "./golden.ts";
import { readGolden } from "./machine.node.ts";
import { CommanderError, type Options } from "./options.node.ts";
import { comparisonChart, sweepChart } from "./plot.ts";
import { report } from "./report.node.ts";
import { roofline } from "./roofline.node.ts";
import { exitCodeOf, run, runOn } from "./run.node.ts";
import { save } from "./save.node.ts";
import { stationOf, type Station } from "./station.node.ts";
import { TERMINAL, type Terminal } from "./terminal.node.ts";

export interface Surroundings {
  readonly terminal?: Terminal | undefined;
  /** Aborted to stop the run; the reason is the exit code. */
  readonly signal?: AbortSignal | undefined;
  /** Opens the back end of the main job; the best that is installed unless given. */
  readonly open?: (() => Promise<Attention>) | undefined;
  /** Who takes part in a comparison; those that are installed unless given. */
  readonly openArena?: (() => Arena) | undefined;
}

/** The app. Resolves to its exit code; complaints are lines, never stack traces, unless the fault is ours. */
export async function main(argv: readonly string[], surroundings: Surroundings = {}): Promise<number> {
  const { terminal = TERMINAL, signal = new AbortController().signal } = surroundings;
  try {
    const code = await jobOf(parseCommandLine(argv, terminal), terminal, signal, surroundings);
    if (signal.aborted && code === signal.reason) terminal.print("\nstopped");
    return code;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode;
    if (signal.aborted && error === signal.reason) {
      terminal.print("\nstopped");
      return signal.reason as number;
    }
    if (!(error instanceof FaError) && !isFileError(error)) throw error;
    terminal.complain(`fa-bench: ${error.message}`);
    return 1;
  }
}

/** @returns the exit code, after what was found has been printed and saved; the signal's reason if it stopped the job */
function jobOf(
  request: Request,
  terminal: Terminal,
  signal: AbortSignal,
  { open, openArena }: Surroundings,
): Promise<number> {
  switch (request.command) {
    case "main":
      return mainJob(request, terminal, signal, open ? { open } : undefined);
    case "compare":
      return comparison(request, terminal, signal, openArena);
    case "run":
      return run(request, terminal, signal);
    case "roofline":
      return roofline(request, terminal, signal);
    case "explain":
      return explain(request, terminal, signal);
    case "report":
      return report(request, terminal);
  }
}

async function mainJob(options: Options, terminal: Terminal, signal: AbortSignal, given?: Station): Promise<number> {
  const { backend, quick, budget, machine } = options;
  const cases = await casesOf(options);
  const station = given ?? stationOf({ backends: backend === undefined ? undefined : [backend] });
  const pace = { budgetMs: budget * 1000, sampleMs: quick ? 40 : 600 };
  const file = await runOn(station, cases, pace, terminal, signal, machine);
  await save(file, () => sweepChart(file), options, terminal);
  return file.complete ? exitCodeOf(file) : (signal.reason as number);
}

/** @throws FaError for sizes that attention refuses */
async function casesOf(options: Options): Promise<Case[]> {
  const golden = goldenModule(await readGolden(), options.quick ? "module" : "big");
  return [...tutorialCases(), ...moduleCases(golden), ...sweepCases(options)];
}

async function comparison(
  options: Options,
  terminal: Terminal,
  signal: AbortSignal,
  openArena: (() => Arena) | undefined,
): Promise<number> {
  const { file, exitCode } = await compare(options, terminal, signal, openArena);
  await save(file, () => comparisonChart(file), options, terminal);
  return file.complete ? exitCode : (signal.reason as number);
}

function isFileError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && typeof (error as NodeJS.ErrnoException).syscall === "string";
}
