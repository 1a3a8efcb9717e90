import { execFileSync } from "node:child_process";
import { createAttention, typedArray, type Attention, type FloatDType, type Tensor } from "@fa/core";
import { cuda } from "@fa/backend-cuda";
import type { AttentionCase } from "../cases.ts";
import { keySets } from "../cuda-targets.ts";
import { bytesOf, elementsOf, PERIOD } from "../numbers.ts";
import type { GpuIdentity } from "../results.ts";
import { drawn } from "../truth.ts";
import { costOf } from "./call-cost.ts";
import { chainsOf, type ChainLengths, type RunChain } from "./chains.ts";
import type { Played, Player, PlayerSpec } from "./player.ts";
import { gpuResult } from "./rows.ts";

/**
 * Turns of 50 ms, many of them: a card at its power limit slows down for all alike. The match warms it, so an entry need not.
 */
export const CUDA_CHAINS: ChainLengths = { chainMs: 12, warmMs: 20 };

/** @param addon in place of the installed one: FA_CUDA_ADDON */
function openFa(): Promise<Attention> {
  return createAttention({ backends: [cuda({ addon: process.env["FA_CUDA_ADDON"] })] });
}

export async function openOursCuda(): Promise<Player> {
  const fa = await openFa();
  return {
    what: `${fa.backend.device}, ${fa.backend.capabilities.features.join(", ")}`,
    place: (item) => place(fa, item),
    facts: () => factsOf(fa),
    gauge: async (name) => {
      if (name !== "mma") throw new Error(`ours has no gauge ${name}`);
      return (await fa.roof()).gflops;
    },
  };
}

function factsOf({ backend }: Attention): GpuIdentity {
  const architecture = backend.capabilities.features.find((feature) => feature.startsWith("sm_"));
  return { adapter: backend.device, driver: driverVersion(), cuda: architecture ?? "unknown" };
}

/** NVIDIA's tool comes with the driver. */
function driverVersion(): string {
  try {
    const args = ["--query-gpu=driver_version", "--format=csv,noheader"];
    const lines = execFileSync("nvidia-smi", args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
    return lines.split("\n", 1)[0].trim();
  } catch {
    return "unknown";
  }
}

type Operand = "q" | "k" | "v";

/** The stream of an input in a dtype, as far as it goes before it begins again; of this process. */
const streams = new Map<string, Uint8Array<ArrayBuffer>>();

function operandBytes(name: Operand, dtype: FloatDType, elements: number): Uint8Array<ArrayBuffer> {
  const key = `${name} ${dtype}`;
  const stream = streams.get(key) ?? bytesOf(dtype, drawn(name, PERIOD));
  streams.set(key, stream);
  const bytes = (stream.byteLength / PERIOD) * elements;
  if (bytes <= stream.byteLength) return stream.subarray(0, bytes);
  const repeated = new Uint8Array(bytes);
  for (let at = 0; at < bytes; at += stream.byteLength) repeated.set(stream.subarray(0, bytes - at), at);
  return repeated;
}

function upload(fa: Attention, { inputs, problem: { dtype } }: AttentionCase, name: Operand): Tensor {
  const { shape } = inputs[name];
  return fa.tensor(typedArray(dtype, operandBytes(name, dtype, elementsOf(shape))), { shape, dtype });
}

async function place(fa: Attention, item: AttentionCase): Promise<Played> {
  const { problem, facts } = item;
  const options = { causal: facts.causal, returnLse: true } as const;
  const q = upload(fa, item, "q");
  const turns = Array.from({ length: keySets(item) }, () => ({ k: upload(fa, item, "k"), v: upload(fa, item, "v") }));
  const [{ k, v }] = turns;

  const calls: RunChain = async (count) => {
    await fa.sync();
    const start = performance.now();
    for (let n = 0; n < count; n++) {
      const turn = turns[n % turns.length];
      const { out, lse } = await fa.attention(q, turn.k, turn.v, options);
      out.dispose();
      lse.dispose();
    }
    await fa.sync();
    return performance.now() - start;
  };

  return {
    kernel: fa.plan(q, k, v, options).kernel.id,
    chains: chainsOf(calls, CUDA_CHAINS),
    inputSets: turns.length,
    async call() {
      const results = await fa.attention(q, k, v, options);
      await fa.sync();
      return gpuResult(problem, results);
    },
    free() {
      for (const tensor of [q, ...turns.flatMap((turn) => [turn.k, turn.v])]) tensor.dispose();
    },
  };
}

/** Milliseconds that calls of a case keep the processor busy. */
export async function callCostOnCuda(item: AttentionCase, { software }: PlayerSpec): Promise<number[]> {
  const fa = await openFa();
  const [q, k, v] = (["q", "k", "v"] as const).map((name) => upload(fa, item, name));
  const times = await costOf(fa, async () => (await fa.attention(q, k, v)).out.dispose(), software);
  await fa.dispose();
  return times;
}
