/** The CUDA back end beside PyTorch on the same GPU. */
import { FaError } from "@fa/core";
import { ContestantError } from "./contest.ts";
import { CUDA_OURS, CUDA_PEER, CUDA_QUICK_SCALE, CUDA_SCALE, CudaProgramme } from "./cuda-targets.ts";
import type { Arena, Field } from "./field.node.ts";
import type { Options } from "./options.node.ts";
import { askAlone, remoteContestant } from "./peers/remote.node.ts";
import type { GpuFacts, GpuIdentity } from "./results.ts";
import { truthsOf, type Truths } from "./truths.node.ts";
import type { CallCost } from "./webgpu-targets.ts";

const ROOFS = {
  matmul: { gauge: "matmul", what: "PyTorch's product of large bfloat16 matrices" },
  mma: { gauge: "mma", what: "register-only mma.sync, bfloat16" },
} as const;

/** With `quick` also where CUDA is played on the processor: FA_CUDA_ADDON names the addon that does. */
export function cudaField({ quick, peers }: Options): Field {
  const programme = new CudaProgramme(quick ? CUDA_QUICK_SCALE : CUDA_SCALE);
  const matches = programme.matches(peers);
  let identity: GpuIdentity;
  let roof: Field["roof"] = ROOFS.mma;
  let copyGBs: number | null = null;
  return {
    contestOf: "cuda",
    matches,
    openArena: () => openArena(quick, peers),
    get roof() {
      return roof;
    },
    pace: quick ? { rounds: 2, entryMs: 100, warmMs: 0 } : { rounds: 7, entryMs: 300, warmMs: 200 },
    async prepare({ gpu, gauge }, terminal) {
      identity = await gpu!.facts().catch((error: unknown) => {
        if (!(error instanceof ContestantError)) throw error;
        throw new FaError(
          "FA_UNAVAILABLE",
          `--targets cuda: there must be an NVIDIA GPU; got none: ${error.message}. Run it where there is one.`,
        );
      });
      terminal.print(`${identity.adapter}, driver ${identity.driver}, ${identity.cuda}\n`);
      const truth = await gpu!.truths(matches.flatMap(({ entries }) => entries.map(({ item }) => item)));
      if (peers) {
        try {
          copyGBs = (await gauge("copy", programme.callCase)) / 1e9;
          roof = ROOFS.matmul;
        } catch (error) {
          if (!(error instanceof ContestantError)) throw error;
          terminal.print(`no gauges of PyTorch's: ${error.message}`);
        }
      }
      return { truth };
    },
    async conclude(results, _settings, arena) {
      const gpu: GpuFacts = { ...identity, copyGBs, matrixGflops: null };
      const callCost: CallCost = await arena.gpu!.callCost(programme.callCase).catch((error: unknown) => {
        if (error instanceof ContestantError) return error.message;
        throw error;
      });
      return { entries: [], targets: programme.targets(results, callCost), gpu };
    },
  };
}

function openArena(software: boolean, peers: boolean): Arena {
  const spec = { library: "ours-cuda", threads: 1, software } as const;
  const ours = remoteContestant(CUDA_OURS, "ours", spec);
  const torch = remoteContestant(CUDA_PEER, "PyTorch", { library: "torch", threads: 1, software });
  let truths: Truths | undefined;
  return {
    contestants: peers ? [ours, torch] : [ours],
    gauge: (name, item) => (name === "mma" ? ours : torch).ask("gauge", { name, item }),
    startUp: () => Promise.reject(new Error("no target is about it")),
    close: async () => truths?.close(),
    gpu: {
      facts: () => ours.ask("gpu", { software }),
      async truths(items) {
        truths = truthsOf(items);
        return truths.of;
      },
      callCost: (item) => askAlone("callCost", { item, spec }),
    },
  };
}
