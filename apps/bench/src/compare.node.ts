/** `--peers` and `--targets`: several libraries on the same cases, taking turns. */
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import type { AttentionCase } from "./cases.ts";
import { matchLine } from "./comparison.ts";
import {
  contest,
  ContestantError,
  type Contestant,
  type ContestOptions,
  type Gauge,
  type Match,
  type MatchResult,
} from "./contest.ts";
import { currentCommit, thisMachine } from "./machine.node.ts";
import { GRID, gridMatches, merged, OURS, PEERS, peersOn } from "./matches.ts";
import type { Options } from "./options.node.ts";
import { remoteContestant, remoteGauge, remoteStartUp } from "./peers/remote.node.ts";
import { SCHEMA, VERSION, type ContestantReport, type ContestFile, type Entry } from "./results.ts";
import { comparisonTable, targetsTable } from "./table.ts";
import type { TargetOutcome } from "./target.ts";
import { progress, styleOf, type Terminal } from "./terminal.node.ts";
import { MEMORY_CASE, START_UP_CASE, wasmMatches, wasmTargets, type Extras } from "./wasm-targets.ts";

export interface Comparison {
  readonly file: ContestFile;
  readonly exitCode: number;
}

/** Everybody who may take part. */
function everybody(): Contestant[] {
  const two = Math.min(2, thisMachine().cores);
  return [
    remoteContestant(OURS.one, "ours", { library: "ours", threads: 1 }),
    ...(two === 2 ? [remoteContestant(OURS.two, "ours", { library: "ours", threads: 2 })] : []),
    remoteContestant(OURS.plain, "ours, plain SIMD", { library: "ours", threads: 1, simd: "plain" }),
    remoteContestant(PEERS.onnx, "onnxruntime-web", { library: "onnxruntime-web", threads: 1 }),
    ...(two === 2
      ? [remoteContestant(PEERS.onnxTwo, "onnxruntime-web", { library: "onnxruntime-web", threads: 2 })]
      : []),
    remoteContestant(PEERS.jax, "jax-js", { library: "jax-js", threads: 1 }),
    remoteContestant(PEERS.tfjs, "tfjs-wasm", { library: "tfjs-wasm", threads: 1 }),
  ];
}

/** Who and what a comparison is made of; the real ones unless a test gives others. */
export interface Arena {
  readonly contestants: readonly Contestant[];
  readonly gauge: Gauge;
  /**
   * Milliseconds from opening ours to the end of its first call of the case, in a process that has just started.
   * @param threads its default unless given
   */
  readonly startUp: (item: AttentionCase, threads?: number) => Promise<number>;
  readonly close: () => Promise<void>;
}

function realArena(): Arena {
  const { gauge, close } = remoteGauge();
  return { contestants: everybody(), gauge, startUp: remoteStartUp, close };
}

/** @throws the signal's reason when it is aborted before the first match is over */
export async function compare(
  options: Options,
  terminal: Terminal,
  signal: AbortSignal,
  openArena: () => Arena = realArena,
): Promise<Comparison> {
  const matches = matchesOf(options);
  const needed = new Set(matches.flatMap(({ entries }) => entries.map(({ contestant }) => contestant)));
  const arena = openArena();
  const contestants = arena.contestants.filter(({ id }) => needed.has(id));
  const stop = (): void => void closeAll(arena, contestants);
  signal.addEventListener("abort", stop);
  try {
    const roof = async (): Promise<number> => arena.gauge("relaxed", matches[0].entries[0].item);
    const firstRoof = await roof();
    const { reports, ready } = await openAll(contestants);
    terminal.print(reports.map(reportLine).join("\n"));
    terminal.print(`\nroof    ${firstRoof.toFixed(1)} GFLOP/s, ${ROOF}; sampled between the cases\n`);

    const settings = {
      contestants: ready,
      gauge: arena.gauge,
      signal,
      rounds: options.quick ? 3 : 5,
      entryMs: options.quick ? 500 : 2500,
    };
    const { results, complete } = await playAll(matches, settings, terminal, signal);
    const roofs = [firstRoof, ...results.flatMap(({ gauges }) => gauges.relaxed ?? [])];
    const entries = results.flatMap((result) => result.entries);
    let targets: TargetOutcome[] = [];
    let finished = complete;
    if (options.targets !== undefined && complete) {
      const settled = await untilStopped(signal, () => extrasOf(settings, arena));
      finished = settled !== undefined;
      if (settled) {
        targets = wasmTargets(results, settled.memory, settled.extras);
        entries.push(settled.memory);
      }
    }
    const file: ContestFile = {
      schema: SCHEMA,
      version: VERSION,
      kind: "contest",
      machine: thisMachine(options.machine),
      date: new Date().toISOString(),
      commit: currentCommit(),
      roof: { gflops: Math.max(...roofs), what: ROOF },
      complete: finished,
      contestants: reports,
      entries,
      targets,
    };
    const style = styleOf(terminal);
    if (entries.length > 0) terminal.print(`\n${comparisonTable(file, style)}`);
    if (targets.length > 0) terminal.print(`\n${targetsTable(targets, style)}`);
    return { file, exitCode: exitCodeOf(file, options.strict) };
  } finally {
    signal.removeEventListener("abort", stop);
    await closeAll(arena, contestants);
  }
}

const ROOF = "register-only relaxed multiply-add, float32, one thread";

function matchesOf({ peers, targets, sizes, heads, dim, chosen, quick }: Options): Match[] {
  const grid = {
    sizes: chosen.sizes ? sizes : quick ? [GRID.sizes[0]] : GRID.sizes,
    heads,
    dims: chosen.dim || quick ? [dim] : GRID.dims,
    contestants: peersOn,
  };
  return merged([...(peers ? gridMatches(grid) : []), ...(targets === undefined ? [] : wasmMatches())]);
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

const START_UPS = 5;

/** What no match tells: memory, start-up, size. */
async function extrasOf(settings: ContestOptions, { startUp }: Arena): Promise<{ extras: Extras; memory: Entry }> {
  const entry = { contestant: OURS.one, item: MEMORY_CASE };
  const match: Match = { id: MEMORY_CASE.facts.id, title: MEMORY_CASE.facts.title, entries: [entry], gauges: [] };
  const memory = contest([match], { ...settings, rounds: 1 });
  const { value: played } = (await memory.next()) as { value: MatchResult };

  const startUps = { one: [] as number[], byDefault: [] as number[] };
  for (let n = 0; n < START_UPS; n++) {
    settings.signal.throwIfAborted();
    startUps.one.push(await startUp(START_UP_CASE, 1));
    startUps.byDefault.push(await startUp(START_UP_CASE));
  }
  return { memory: played.entries[0], extras: { startUps, gzippedBytes: gzippedBytes() } };
}

/** Bytes of each `.wasm` file of the back end, as a server would send it. */
function gzippedBytes(): Record<string, number> {
  const home = dirname(createRequire(import.meta.url).resolve("@fa/backend-wasm/package.json"));
  const files = readdirSync(join(home, "wasm")).filter((file) => file.endsWith(".wasm"));
  return Object.fromEntries(files.map((file) => [file, gzipSync(readFileSync(join(home, "wasm", file))).byteLength]));
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
