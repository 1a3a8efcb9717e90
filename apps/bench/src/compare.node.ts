/** `--peers` and `--targets`: several libraries on the same cases, taking turns. */
import { cudaField } from "./cuda-field.node.ts";
import { matchLine } from "./comparison.ts";
import {
  contest,
  ContestantError,
  type Contestant,
  type ContestOptions,
  type Match,
  type MatchResult,
} from "./contest.ts";
import type { Arena, Conclusion, Field } from "./field.node.ts";
import { currentCommit, thisMachine } from "./machine.node.ts";
import type { Options } from "./options.node.ts";
import { SCHEMA, VERSION, type ContestantReport, type ContestFile, type Entry } from "./results.ts";
import { comparisonTable, cudaTable, gpuTable, targetsTable } from "./table.ts";
import type { TargetOutcome } from "./target.ts";
import { progress, styleOf, type Terminal } from "./terminal.node.ts";
import { wasmField } from "./wasm-field.node.ts";
import { webgpuField } from "./webgpu-field.node.ts";

export interface Comparison {
  readonly file: ContestFile;
  readonly exitCode: number;
}

const TABLES = { wasm: comparisonTable, webgpu: gpuTable, cuda: cudaTable } as const;

function fieldOf(options: Options): Field {
  if (options.targets === "cuda") return cudaField(options);
  return options.targets === "webgpu" ? webgpuField(options) : wasmField(options);
}

/** @throws the signal's reason when it is aborted before the first match is over */
export async function compare(
  options: Options,
  terminal: Terminal,
  signal: AbortSignal,
  openArena?: () => Arena,
): Promise<Comparison> {
  const field = fieldOf(options);
  const { matches } = field;
  const needed = new Set(matches.flatMap(({ entries }) => entries.map(({ contestant }) => contestant)));
  const arena = (openArena ?? field.openArena)();
  const contestants = arena.contestants.filter(({ id }) => needed.has(id));
  const stop = (): void => void closeAll(arena, contestants);
  signal.addEventListener("abort", stop);
  try {
    const prepared = await field.prepare?.(arena, terminal);
    const { roof } = field;
    const firstRoof = await arena.gauge(roof.gauge, matches[0].entries[0].item);
    const { reports, ready } = await openAll(contestants);
    terminal.print(reports.map(reportLine).join("\n"));
    terminal.print(`\nroof    ${firstRoof.toFixed(1)} GFLOP/s, ${roof.what}; sampled between the cases\n`);

    const settings = { contestants: ready, gauge: arena.gauge, signal, ...field.pace, ...prepared };
    const { results, complete } = await playAll(matches, settings, terminal, signal);
    const roofs = [firstRoof, ...results.flatMap(({ gauges }) => gauges[roof.gauge] ?? [])];
    let conclusion: Conclusion | undefined;
    if (complete) conclusion = await untilStopped(signal, () => field.conclude(results, settings, arena));
    const { entries = [], targets = [], gpu } = conclusion ?? {};
    const file: ContestFile = {
      schema: SCHEMA,
      version: VERSION,
      kind: "contest",
      contestOf: field.contestOf,
      machine: thisMachine(options.machine ?? gpu?.adapter),
      date: new Date().toISOString(),
      commit: currentCommit(),
      roof: { gflops: Math.max(...roofs), what: roof.what },
      gpu,
      complete: conclusion !== undefined,
      contestants: reports,
      entries: [...results.flatMap((result) => result.entries), ...entries],
      targets,
    };
    const style = styleOf(terminal);
    if (file.entries.length > 0) terminal.print(`\n${TABLES[file.contestOf](file, style)}`);
    if (targets.length > 0) terminal.print(`\n${targetsTable(targets, style)}`);
    return { file, exitCode: exitCodeOf(file, options.strict) };
  } catch (error) {
    // Whoever was asked when everybody was closed fails for that.
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener("abort", stop);
    await closeAll(arena, contestants);
  }
}

async function openAll(contestants: readonly Contestant[]) {
  const reports: ContestantReport[] = [];
  const ready = new Map<string, Contestant | string>();
  for (const contestant of contestants) {
    const { id, name, threads } = contestant;
    try {
      reports.push({ id, name, threads, what: await contestant.open(), takesPart: true });
      ready.set(id, contestant);
    } catch (error) {
      if (!(error instanceof ContestantError)) throw error;
      reports.push({ id, name, threads, what: error.message, takesPart: false });
      ready.set(id, error.message);
      await contestant.close();
    }
  }
  return { reports, ready };
}

async function closeAll(arena: Arena, contestants: readonly Contestant[]): Promise<void> {
  await Promise.all([arena.close(), ...contestants.map((contestant) => contestant.close())]);
}

async function playAll(
  matches: readonly Match[],
  settings: ContestOptions,
  terminal: Terminal,
  signal: AbortSignal,
): Promise<{ results: MatchResult[]; complete: boolean }> {
  const results: MatchResult[] = [];
  const shown = progress(terminal, matches.length);
  try {
    shown.begin(matches[0].title);
    const all = await untilStopped(signal, async () => {
      for await (const result of contest(matches, settings)) {
        results.push(result);
        shown.end(matchLine(result));
        shown.begin(matches[results.length]?.title ?? "");
      }
      return true;
    });
    return { results, complete: all === true };
  } finally {
    shown.stop();
  }
}

/** Undefined when the signal stopped the work. */
async function untilStopped<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T | undefined> {
  try {
    signal.throwIfAborted();
    return await work();
  } catch (error) {
    if (!signal.aborted) throw error;
    return undefined;
  }
}

/** Faults of ours count, those of peers do not; targets only with --strict. */
export function exitCodeOf({ entries, targets }: ContestFile, strict: boolean): number {
  const isFault = ({ contestant, outcome }: Entry): boolean =>
    contestant.startsWith("ours") && (outcome === "wrong" || outcome === "failed");
  const isMissed = ({ state }: TargetOutcome): boolean => state !== "met";
  return entries.some(isFault) || (strict && targets.some(isMissed)) ? 1 : 0;
}

function reportLine({ id, what, takesPart }: ContestantReport): string {
  return `${id.padEnd(18)}  ${takesPart ? what : `takes no part: ${what}`}`;
}
