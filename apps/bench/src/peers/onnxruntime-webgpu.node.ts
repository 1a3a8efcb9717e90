/**
 * onnxruntime on its WebGPU execution provider, in Node: com.microsoft's MultiHeadAttention, and its
 * GroupQueryAttention for one query over a cache. ONNX's own Attention has no WebGPU kernel and would run on the processor.
 */
import type { TensorData } from "@fa/core";
import type { AttentionCase } from "../cases.ts";
import { bytesOf } from "../numbers.ts";
import type { CaseNumbers } from "../truth.ts";
import { firstSlope, slopeOf } from "./chains.ts";
import { onnxModel, type ElementType, type OneOperator } from "./onnx.ts";
import type { Played, Player } from "./player.ts";
import { rowsAlone } from "./rows.ts";

/** No literal: 290 MB for all platforms is too much to install for everybody. Its API is that of onnxruntime-web. */
const ONNXRUNTIME: string = "onnxruntime-node";

type Ort = Pick<typeof import("onnxruntime-web"), "InferenceSession" | "Tensor" | "env">;
type Feeds = Readonly<Record<string, InstanceType<Ort["Tensor"]>>>;

/** A chain this much longer than one call is timed. */
const CHAIN_MS = 40;
/** To find out how long a call takes; longer where it does not show. */
const PROBE_CHAIN = 5;
const LONGEST_CHAIN = 257;
const WARM_MS = 150;

/** A model without the number of its nodes, and what it is run on. */
interface Prepared {
  readonly model: Omit<OneOperator, "chain">;
  readonly feeds: Feeds;
}

export async function openOnnxruntimeWebgpu(): Promise<Player> {
  // Its binding takes an engine's own Float16Array for an empty one.
  delete (globalThis as { Float16Array?: unknown }).Float16Array;
  const ort = ((await import(ONNXRUNTIME)) as { default: Ort }).default;
  ort.env.logLevel = "error";
  return {
    what: `${(ort.env.versions as { node?: string }).node ?? "version unknown"}, WebGPU, MultiHeadAttention, GroupQueryAttention`,
    place: (item, numbers) => place(ort, item, numbers()),
  };
}

async function place(ort: Ort, item: AttentionCase, data: CaseNumbers): Promise<Played> {
  const { problem } = item;
  const { dtype, B, H, Sq, Hkv, Dv } = problem;
  const { model, feeds } = Sq === 1 && Hkv < H ? cached(ort, item, data) : whole(ort, item, data);
  const sessions = new Map<number, Session>();
  const session = async (chain: number): Promise<Session> => {
    const known = sessions.get(chain);
    if (known) return known;
    const made = await ort.InferenceSession.create(onnxModel({ ...model, chain }), {
      executionProviders: ["webgpu"],
      // Nothing may run on the processor unseen.
      extra: { session: { disable_cpu_ep_fallback: "1" } },
    });
    sessions.set(chain, made);
    return made;
  };
  const run = async (chain: number): Promise<number> => {
    const ready = await session(chain);
    const start = performance.now();
    const { out } = await ready.run(feeds).catch(explained);
    const ms = performance.now() - start;
    out.dispose();
    return ms;
  };

  return {
    kernel: model.operator,
    async call() {
      const { out } = await (await session(1)).run(feeds).catch(explained);
      return {
        numbers: async () => ({ out: rowsAlone(problem, dtype, Dv, headsFirst(out.data as Halves, B, Sq, H)) }),
        dispose: () => out.dispose(),
      };
    },
    chains: {
      async pace() {
        const probed = await firstSlope(run, PROBE_CHAIN, LONGEST_CHAIN);
        const calls = Math.min(Math.max(PROBE_CHAIN, 1 + Math.ceil(CHAIN_MS / probed)), LONGEST_CHAIN);
        const until = performance.now() + WARM_MS;
        do await run(calls);
        while (performance.now() < until);
        return { callMs: probed, callsPerSample: calls };
      },
      slope: (calls) => slopeOf(run, 1, calls),
    },
    async free() {
      for (const one of sessions.values()) await one.release();
    },
  };
}

/** "Program CopyKVCache requires f16 ..." of a message with the node and the place in the source before it. */
function explained(error: unknown): never {
  const [, reason] = /Status Message: (?:\S+:\d+ \S+ )?(.*)$/s.exec(String(error)) ?? [];
  throw reason === undefined ? error : new Error(reason.trim(), { cause: error });
}

type Session = Awaited<ReturnType<Ort["InferenceSession"]["create"]>>;
/** Float16 is passed as its bits. */
type Halves = Float32Array | Uint16Array;

function elementsOf(dtype: ElementType, values: Float64Array): Halves {
  const { buffer } = bytesOf(dtype as "float16" | "float32", values);
  return dtype === "float16" ? new Uint16Array(buffer) : new Float32Array(buffer);
}

/** MultiHeadAttention: q, k, v and out [B, S, H D]. */
function whole(ort: Ort, { problem, facts }: AttentionCase, data: CaseNumbers): Prepared {
  const { B, H, Hkv, Sq, Skv, D, Dv } = problem;
  const dtype = typeOf(problem.dtype);
  if (H !== Hkv) throw new Error("MultiHeadAttention has as many heads of keys as of queries");
  const shapes = { q: [B, Sq, H * D], k: [B, Skv, H * D], v: [B, Skv, H * Dv] };
  const tensor = (name: "q" | "k" | "v", S: number) =>
    new ort.Tensor(dtype, rowsFirst(elementsOf(dtype, data[name]), B, S, H) as never, shapes[name]);
  return {
    model: {
      operator: "MultiHeadAttention",
      domain: "com.microsoft",
      opset: 1,
      attributes: { num_heads: H, unidirectional: Number(facts.causal) },
      inputs: shapes,
      outputs: { out: [B, Sq, H * Dv] },
      types: { q: dtype, k: dtype, v: dtype, out: dtype },
    },
    feeds: { q: tensor("q", Sq), k: tensor("k", Skv), v: tensor("v", Skv) },
  };
}

/** GroupQueryAttention: all keys but the last are the cache, [B, Hkv, Skv - 1, D], which each node copies to append one. */
function cached(ort: Ort, { problem }: AttentionCase, data: CaseNumbers): Prepared {
  const { B, H, Hkv, Skv, D } = problem;
  const dtype = typeOf(problem.dtype);
  const past = Skv - 1;
  const split = (name: "k" | "v") => {
    const all = elementsOf(dtype, data[name]);
    const [old, last] = [all.slice(0, B * Hkv * past * D), all.slice(0, B * Hkv * D)];
    for (let head = 0; head < B * Hkv; head++) {
      const at = head * Skv * D;
      old.set(all.subarray(at, at + past * D), head * past * D);
      last.set(all.subarray(at + past * D, at + Skv * D), head * D);
    }
    return {
      past: new ort.Tensor(dtype, old as never, [B, Hkv, past, D]),
      last: new ort.Tensor(dtype, last as never, [B, 1, Hkv * D]),
    };
  };
  const [k, v] = [split("k"), split("v")];
  const q = new ort.Tensor(dtype, elementsOf(dtype, data.q) as never, [B, 1, H * D]);
  const feeds = {
    q,
    k: k.last,
    v: v.last,
    pastK: k.past,
    pastV: v.past,
    lengths: new ort.Tensor("int32", new Int32Array(B).fill(past), [B]),
    total: new ort.Tensor("int32", Int32Array.of(Skv), [1]),
  };
  const shapes = Object.fromEntries(Object.entries(feeds).map(([name, { dims }]) => [name, dims]));
  const types = Object.fromEntries(Object.entries(feeds).map(([name, { type }]) => [name, type]));
  const cache = [B, Hkv, Skv, D];
  return {
    model: {
      operator: "GroupQueryAttention",
      domain: "com.microsoft",
      opset: 1,
      attributes: { num_heads: H, kv_num_heads: Hkv },
      inputs: shapes,
      outputs: { out: q.dims, presentK: cache, presentV: cache },
      types: { ...types, out: dtype, presentK: dtype, presentV: dtype },
    },
    feeds,
  };
}

function typeOf(dtype: string): "float16" | "float32" {
  if (dtype === "float16" || dtype === "float32") return dtype;
  throw new Error(`onnxruntime's WebGPU has no ${dtype}`);
}

/** [B, H, S, D] as [B, S, H, D]. */
function rowsFirst(values: Halves, B: number, S: number, H: number): Halves {
  return swapped(values, B, H, S);
}

/** [B, S, H, D] as [B, H, S, D]. */
function headsFirst(values: Halves, B: number, S: number, H: number): TensorData {
  return swapped(values, B, S, H);
}

/** [outer, a, b, inner] as [outer, b, a, inner]. */
function swapped(values: Halves, outer: number, a: number, b: number): Halves {
  const inner = values.length / (outer * a * b);
  const result = values.slice();
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < a; i++) {
      for (let j = 0; j < b; j++) {
        const from = ((o * a + i) * b + j) * inner;
        result.set(values.subarray(from, from + inner), ((o * b + j) * a + i) * inner);
      }
    }
  }
  return result;
}
