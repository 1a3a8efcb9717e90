import { createAttention, type Attention, type Tensor } from "@fa/core";
import { deviceDescriptor, FEATURES, webgpu, type Tier } from "@fa/backend-webgpu";
import type { AttentionCase } from "../cases.ts";
import { gpuTimer, timeSubmitted } from "../gpu-timer.ts";
import { bytesOf } from "../numbers.ts";
import { numbersOf, type CaseNumbers } from "../truth.ts";
import { costOf } from "./call-cost.ts";
import { chainsOf, type RunChain } from "./chains.ts";
import { MATRIX_FLAGS, openAdapter, SOFTWARE_FLAGS } from "./dawn.node.ts";
import type { Played, Player, PlayerSpec } from "./player.ts";
import { gpuResult } from "./rows.ts";

/** What a device must have to count as of a tier. */
const NEEDED: Readonly<Record<Tier, readonly string[]>> = {
  portable: [],
  subgroups: [FEATURES.subgroups],
  matrix: [FEATURES.matrix],
};

/** Calls that are recorded before they are submitted together. */
const CALLS_A_SUBMISSION = 16;
/** Keys and values that are read in turn take so many bytes together, so that no cache holds them. */
const BYTES_IN_TURN = 512 * 2 ** 20;
const MOST_SETS = 16;

interface Opened {
  readonly fa: Attention;
  readonly device: GPUDevice;
}

async function openFa({ tier = "subgroups", float16Scores, software = false }: PlayerSpec): Promise<Opened> {
  const flags = [...(tier === "matrix" ? MATRIX_FLAGS : []), ...(software ? SOFTWARE_FLAGS : [])];
  const adapter = await openAdapter(flags, software);
  const device = await adapter.requestDevice(deviceDescriptor(adapter, tier));
  const fa = await createAttention({ backends: [webgpu({ device, tier, float16Scores, software })] });
  const needed = [...NEEDED[tier], ...(float16Scores ? [FEATURES.float16Scores] : [])];
  const missing = needed.filter((feature) => !fa.backend.capabilities.features.includes(feature));
  if (missing.length > 0) throw new Error(`${fa.backend.device} has no ${missing.join(", no ")}`);
  return { fa, device };
}

/** @throws Error when the device lacks what the tier is about */
export async function openOursWebgpu(spec: PlayerSpec): Promise<Player> {
  const { fa, device } = await openFa(spec);
  const { tier = "subgroups", float16Scores = false } = spec;
  const scores = float16Scores ? "scores in float16, " : "";
  return {
    what: `${scores}${tier === "matrix" ? `Dawn with ${MATRIX_FLAGS.join(" ")}` : "Dawn without flags"}`,
    place: (item, numbers) => place({ fa, device }, item, numbers()),
  };
}

/** Tensors of a case; keys and values several times over if they are read in turn. */
function upload(fa: Attention, { inputs, problem, timed }: AttentionCase, data: CaseNumbers) {
  const { dtype } = problem;
  const tensor = (name: "q" | "k" | "v"): (() => Tensor) => {
    const bytes = bytesOf(dtype, data[name]);
    // Raw bits where the dtype is float16: an engine's own Float16Array is left alone.
    const elements = dtype === "float16" ? new Uint16Array(bytes.buffer) : new Float32Array(bytes.buffer);
    return () => fa.tensor(elements, { shape: inputs[name].shape, dtype });
  };
  const q = tensor("q")();
  const [k, v] = [tensor("k"), tensor("v")];
  const bytes = data.k.length * 2 * (dtype === "float16" ? 2 : 4);
  const sets = timed === "device" ? Math.min(Math.ceil(BYTES_IN_TURN / bytes), MOST_SETS) : 1;
  return { q, keys: Array.from({ length: sets }, () => ({ k: k(), v: v() })) };
}

async function place({ fa, device }: Opened, item: AttentionCase, data: CaseNumbers): Promise<Played> {
  const { problem, timed } = item;
  const { causal } = item.facts;
  const options = { causal, returnLse: true } as const;
  const { q, keys } = upload(fa, item, data);
  const [{ k, v }] = keys;

  const calls: RunChain = async (count) => {
    const start = performance.now();
    for (let n = 0; n < count; n++) {
      const { out, lse } = await fa.attention(q, k, v, options);
      out.dispose();
      lse.dispose();
    }
    await fa.sync();
    return performance.now() - start;
  };

  /**
   * Each call's out is the next one's q, as in a network.
   * @param done takes what no later call needs; the last out, which is returned, is the caller's
   */
  const record = (
    encoder: GPUCommandEncoder,
    [from, to]: readonly [number, number],
    first: Tensor,
    done: (tensor: Tensor) => void,
  ): Tensor => {
    const pass = encoder.beginComputePass();
    let next = first;
    for (let n = from; n < to; n++) {
      const set = keys[n % keys.length];
      const { out, lse } = fa.encode(pass, next, set.k, set.v, options);
      done(lse!);
      if (next !== q) done(next);
      next = out;
    }
    pass.end();
    return next;
  };

  /**
   * Submitted piece by piece while it is recorded, and disposed once submitted, as a network does with what it needs no
   * longer; the clock runs from the first.
   */
  const recorded: RunChain = async (count) => {
    let old: Tensor[] = [];
    const start = performance.now();
    let next = q;
    for (let n = 0; n < count; n += CALLS_A_SUBMISSION) {
      const made: Tensor[] = [];
      const encoder = device.createCommandEncoder();
      next = record(encoder, [n, Math.min(n + CALLS_A_SUBMISSION, count)], next, (tensor) => made.push(tensor));
      device.queue.submit([encoder.finish()]);
      for (const tensor of old) tensor.dispose();
      old = made;
    }
    await device.queue.onSubmittedWorkDone();
    const ms = performance.now() - start;
    for (const tensor of [...old, next]) tensor.dispose();
    return ms;
  };

  const timer = gpuTimer(device);
  /**
   * Recorded whole, and timed by the device: the processor translates commands while nothing runs yet. What no later call needs
   * is disposed at once, so that the same few buffers serve all calls: new ones would be cleared while the clock runs.
   */
  const onDevice: RunChain = async (count) => {
    let last = q;
    const recordAll = (encoder: unknown): void => {
      last = record(encoder as GPUCommandEncoder, [0, count], q, (tensor) => tensor.dispose());
    };
    const ms = await (timer ? timer.time(recordAll) : timeSubmitted(device, recordAll));
    last.dispose();
    return ms;
  };

  return {
    kernel: fa.plan(q, k, v, options).kernel.id,
    chains: chainsOf({ calls, recorded, device: onDevice }[timed]),
    inputSets: keys.length,
    async call() {
      const results = await fa.attention(q, k, v, options);
      await fa.sync();
      return gpuResult(problem, results);
    },
    free() {
      for (const tensor of [q, ...keys.flatMap((set) => [set.k, set.v])]) tensor.dispose();
    },
  };
}

/**
 * Milliseconds that calls of a case keep the processor busy: recorded and submitted too, on a device of the back end's own, as
 * most have it.
 */
export async function callCostOnWebgpu(item: AttentionCase, spec: PlayerSpec): Promise<number[]> {
  const { tier, software = false } = spec;
  await openAdapter(software ? SOFTWARE_FLAGS : [], software);
  const fa = await createAttention({ backends: [webgpu({ tier, software })] });
  const { q, keys } = upload(fa, item, numbersOf(item));
  const [{ k, v }] = keys;
  const times = await costOf(fa, async () => (await fa.attention(q, k, v)).out.dispose(), spec.software);
  await fa.dispose();
  return times;
}
