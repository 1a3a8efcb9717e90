/** The process that runs one library: asked over IPC, one question at a time. Started by `remote.node.ts`. */
import type { AttentionCase } from "../cases.ts";
import type { FirstCall, GaugeName, Pace } from "../contest.ts";
import type { GpuIdentity } from "../results.ts";
import { forwardAnswer, numbersOf, type CaseNumbers, type ForwardAnswer } from "../truth.ts";
import { gauge } from "./gauge.node.ts";
import type { Played, Player, PlayerSpec } from "./player.ts";

/** What can be asked, with its argument and answer. */
export interface Questions {
  open: [spec: PlayerSpec, what: string];
  /** Whether the entry is paced by chains. */
  place: [item: AttentionCase, placed: { handle: number; chained: boolean; inputSets: number }];
  first: [handle: number, call: FirstCall];
  pace: [handle: number, pace: Pace];
  sample: [{ handle: number; calls: number }, ms: number];
  free: [handle: number, nothing: undefined];
  startUp: [{ item: AttentionCase; threads?: number | undefined }, ms: number];
  gauge: [{ name: GaugeName; item: AttentionCase }, rate: number];
  answer: [item: AttentionCase, answer: ForwardAnswer];
  /** Milliseconds that calls of the case keep the processor busy, each sample over many calls. */
  callCost: [{ item: AttentionCase; spec: PlayerSpec }, ms: number[]];
  /** The GPU of the library that was opened; of WebGPU, where none was. */
  gpu: [{ software: boolean }, facts: GpuIdentity];
}

export type Question = { [name in keyof Questions]: { name: name; argument: Questions[name][0] } }[keyof Questions];
export type Answer = { readonly value: unknown } | { readonly error: string };

const LIBRARIES: Readonly<Record<PlayerSpec["library"], (spec: PlayerSpec) => Promise<Player>>> = {
  ours: async (spec) => (await import("./ours.node.ts")).openOurs(spec),
  "ours-webgpu": async (spec) => (await import("./ours-webgpu.node.ts")).openOursWebgpu(spec),
  "ours-cuda": async () => (await import("./ours-cuda.node.ts")).openOursCuda(),
  torch: async (spec) => (await import("./torch.node.ts")).openTorch(spec),
  "onnxruntime-node": async () => (await import("./onnxruntime-webgpu.node.ts")).openOnnxruntimeWebgpu(),
  "onnxruntime-web": async (spec) => (await import("./onnxruntime.node.ts")).openOnnxruntime(spec),
  "jax-js": async () => (await import("./jax.node.ts")).openJax(),
  "tfjs-wasm": async () => (await import("./tfjs.node.ts")).openTfjs(),
};

let player: Player | undefined;
const placed = new Map<number, Played>();

async function answer(question: Question): Promise<unknown> {
  switch (question.name) {
    case "open":
      player = await LIBRARIES[question.argument.library](question.argument);
      return player.what;
    case "place": {
      const handle = placed.size;
      const played = await player!.place(question.argument, () => lastNumbersOf(question.argument));
      placed.set(handle, played);
      return { handle, chained: played.chains !== undefined, inputSets: played.inputSets ?? 1 };
    }
    case "first": {
      const played = placed.get(question.argument)!;
      const start = performance.now();
      const output = await played.call();
      const ms = performance.now() - start;
      const peakBytes = played.peakBytes?.() ?? null;
      const results = await output.numbers();
      output.dispose();
      return { ms, results, peakBytes, kernel: played.kernel } satisfies FirstCall;
    }
    case "pace":
      return placed.get(question.argument)!.chains!.pace();
    case "sample": {
      const { handle, calls } = question.argument;
      const played = placed.get(handle)!;
      if (played.chains) return played.chains.slope(calls);
      const start = performance.now();
      for (let n = 0; n < calls; n++) (await played.call()).dispose();
      return (performance.now() - start) / calls;
    }
    case "free":
      return placed.get(question.argument)!.free();
    case "startUp":
      return (await import("./ours.node.ts")).startUp(question.argument.item, question.argument.threads);
    case "gauge": {
      const { name, item } = question.argument;
      if (player?.gauge) return player.gauge(name);
      if (name === "relaxed" || name === "plain" || name === "read") return gauge(name, item);
      if (name === "mma" || name === "matmul") throw new Error(`nobody here has the gauge ${name}`);
      return (await import("./gpu-gauge.node.ts")).gpuGauge(name);
    }
    case "answer":
      return forwardAnswer(question.argument);
    case "callCost": {
      const { item, spec } = question.argument;
      if (spec.library === "ours-cuda") return (await import("./ours-cuda.node.ts")).callCostOnCuda(item, spec);
      return (await import("./ours-webgpu.node.ts")).callCostOnWebgpu(item, spec);
    }
    case "gpu":
      if (player?.facts) return player.facts();
      return (await import("./gpu-gauge.node.ts")).gpuFacts(question.argument.software);
  }
}

let last: { readonly key: string; readonly numbers: CaseNumbers } | undefined;

/** Cases that follow each other often differ in nothing but the options. */
function lastNumbersOf(item: AttentionCase): CaseNumbers {
  const { inputs, problem, ramped, options } = item;
  const key = JSON.stringify([inputs, problem.op, ramped, options.bias, options.alibiSlopes]);
  if (last?.key !== key) last = { key, numbers: numbersOf(item) };
  return last.numbers;
}

/** "not installed" where the library itself is missing, or what it said. */
function reasonOf(error: unknown): string {
  const { code, message = String(error) } = error as { code?: string; message?: string };
  const [, name] = /Cannot find package '([^']+)'/.exec(message) ?? [];
  if (code === "ERR_MODULE_NOT_FOUND" && name !== undefined) return `not installed: npm install ${name}`;
  return message.split("\n", 1)[0];
}

process.on("message", (question: Question) => {
  void answer(question).then(
    (value) => process.send!({ value } satisfies Answer),
    (error: unknown) => process.send!({ error: reasonOf(error) } satisfies Answer),
  );
});
// Ctrl-C goes to the whole group: the process that asks decides when this one ends.
process.on("SIGINT", () => {});
process.on("disconnect", () => process.exit());
