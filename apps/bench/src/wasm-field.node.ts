/** The wasm back end beside others on the same processor. */
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { contest, type Contestant, type ContestOptions, type Match, type MatchResult } from "./contest.ts";
import type { Arena, Field } from "./field.node.ts";
import { thisMachine } from "./machine.node.ts";
import { GRID, gridMatches, merged, OURS, PEERS, peersOn } from "./matches.ts";
import type { Options } from "./options.node.ts";
import { askAlone, remoteContestant, remoteGauge } from "./peers/remote.node.ts";
import type { Entry } from "./results.ts";
import { MEMORY_CASE, START_UP_CASE, wasmMatches, wasmTargets, type Extras } from "./wasm-targets.ts";

export function wasmField(options: Options): Field {
  const { quick, targets } = options;
  return {
    contestOf: "wasm",
    matches: matchesOf(options),
    openArena,
    roof: { gauge: "relaxed", what: "register-only relaxed multiply-add, float32, one thread" },
    pace: { rounds: quick ? 3 : 5, entryMs: quick ? 500 : 2500 },
    async conclude(results, settings, arena) {
      if (targets === undefined) return { entries: [], targets: [] };
      const { memory, extras } = await extrasOf(settings, arena);
      return { entries: [memory], targets: wasmTargets(results, memory, extras) };
    },
  };
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

function openArena(): Arena {
  const { gauge, close } = remoteGauge();
  return { contestants: everybody(), gauge, startUp: (item, threads) => askAlone("startUp", { item, threads }), close };
}

function matchesOf({ peers, targets, sizes, heads, dim, chosen, quick }: Options): Match[] {
  const grid = {
    sizes: chosen.sizes ? sizes : quick ? [GRID.sizes[0]] : GRID.sizes,
    heads,
    dims: chosen.dim || quick ? [dim] : GRID.dims,
    contestants: peersOn,
  };
  return merged([...(peers ? gridMatches(grid) : []), ...(targets === undefined ? [] : wasmMatches())]);
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
