/** The WebGPU back end beside onnxruntime on the same GPU. */
import { FaError } from "@fa/core";
import { ContestantError, type GaugeName } from "./contest.ts";
import type { Arena, Field, GpuArena } from "./field.node.ts";
import type { Options } from "./options.node.ts";
import { askAlone, Remote, remoteContestant } from "./peers/remote.node.ts";
import type { GpuFacts } from "./results.ts";
import { truthsOf, type Truths } from "./truths.node.ts";
import { FULL_SCALE, GPU_OURS, GPU_PEER, QUICK_SCALE, WebgpuProgramme, type CallCost } from "./webgpu-targets.ts";

/** With `quick` also on a software adapter. */
export function webgpuField({ quick, peers }: Options): Field {
  const programme = new WebgpuProgramme(quick ? QUICK_SCALE : FULL_SCALE);
  const matches = programme.matches(peers);
  let facts: Pick<GpuFacts, "adapter" | "driver" | "webgpu">;
  return {
    contestOf: "webgpu",
    matches,
    openArena: () => openArena(quick),
    roof: { gauge: "fma", what: "register-only multiply-add, float32" },
    // A GPU that idled is several times slower; entries have warmed it before, each for itself.
    pace: quick ? { rounds: 2, entryMs: 500, warmMs: 0 } : { rounds: 3, entryMs: 300, warmMs: 150 },
    async prepare({ gpu }, terminal) {
      facts = await gpu!.facts().catch((error: unknown) => {
        if (!(error instanceof ContestantError)) throw error;
        const fix = quick ? "Run it where there is one." : "With --quick a software adapter will do.";
        throw new FaError(
          "FA_UNAVAILABLE",
          `--targets webgpu: there must be a GPU; got none: ${error.message}. ${fix}`,
        );
      });
      terminal.print(`${facts.adapter}, driver ${facts.driver}, ${facts.webgpu}\n`);
      return { truth: await gpu!.truths(matches.flatMap(({ entries }) => entries.map(({ item }) => item))) };
    },
    async conclude(results, { signal }, arena) {
      const best = async (name: GaugeName): Promise<number> => {
        let most = Math.max(0, ...results.flatMap(({ gauges }) => gauges[name] ?? []));
        for (let n = 0; n < ROOF_SAMPLES; n++) {
          signal.throwIfAborted();
          most = Math.max(most, await arena.gauge(name, programme.callCase));
        }
        return most;
      };
      const gpu: GpuFacts = {
        ...facts,
        copyGBs: (await best("copy")) / 1e9,
        matrixGflops: (await best("matrix")) || null,
      };
      const callCost: CallCost = await arena.gpu!.callCost(programme.callCase).catch((error: unknown) => {
        if (error instanceof ContestantError) return error.message;
        throw error;
      });
      return { entries: [], targets: programme.targets(results, callCost), gpu };
    },
  };
}

const ROOF_SAMPLES = 3;

/**
 * Of those who keep scores in float16, or sums, as onnxruntime does: at S 8192 it errs 9 times as much as others may.
 * Their errors are shown.
 */
const HALVES_MAY_ERR = 16;

function openArena(software: boolean): Arena {
  const ours = { library: "ours-webgpu", threads: 1, software } as const;
  const remote = new Remote();
  let truths: Truths | undefined;
  const gpu: GpuArena = {
    facts: () => remote.ask("gpu", { software }),
    async truths(items) {
      truths = truthsOf(items);
      return truths.of;
    },
    callCost: (item) => askAlone("callCost", { item, spec: { ...ours, tier: "subgroups" } }),
  };
  return {
    contestants: [
      remoteContestant(GPU_OURS.matrix, "tier matrix", { ...ours, tier: "matrix" }),
      remoteContestant(
        GPU_OURS.float16Scores,
        "float16 scores",
        { ...ours, tier: "matrix", float16Scores: true },
        HALVES_MAY_ERR,
      ),
      remoteContestant(GPU_OURS.subgroups, "tier subgroups", { ...ours, tier: "subgroups" }),
      remoteContestant(GPU_OURS.portable, "tier portable", { ...ours, tier: "portable" }),
      remoteContestant(GPU_PEER, "onnxruntime", { library: "onnxruntime-node", threads: 1 }, HALVES_MAY_ERR),
    ],
    gauge: (name, item) => remote.ask("gauge", { name, item }),
    startUp: () => Promise.reject(new Error("no target is about it")),
    close: async () => void (await Promise.all([remote.close(), truths?.close()])),
    gpu,
  };
}
