/**
 * One kernel at work on the GPU: `npm run kernel -- cuda/KERNEL [--addon FILE] [--json] [--lean] [--part 2/6]`, --lean for tensors that are
 * each an allocation of their own, --part for one of so many parts of the problems (smoke, cases).
 *
 *   forward, backward, decode   verified on a small problem first, then timed: ms, TFLOP/s, GB/s
 *   linear                      projections, timed
 *   smoke                       each op once, held to float64
 *   calls                       host time of a call on resident tensors
 *   cases                       every row of the kernel table once (for compute-sanitizer)
 *   repeats                     250 runs of each, bit-equal
 *   flat                        10,000 calls leave memory flat
 *   large                       more than 2^31 elements
 *   faults                      memory that runs out, an illegal access, workers, collections in flight; best with --expose-gc
 */
import { parseArgs } from "node:util";
import {
  attentionProblem,
  bytesPerElement,
  createAttention,
  plan,
  type Attention,
  type Bindings,
  type DeviceBuffer,
  type FloatDType,
  type Problem,
  type Tensor,
} from "@fa/core";
import { reference } from "@fa/core/reference";
import { DTYPE, MOST_SLOTS, OP } from "../src/abi.ts";
import { loadAddon } from "../src/addon.node.ts";
import type { CudaBackend } from "../src/backend.ts";
import { cuda } from "../src/index.ts";
import { breakContext, FAULTS } from "./faults.ts";
import { FLOAT8, make, PROBLEMS, runOnce, tensorOf, type Sample } from "./problems.ts";

const { positionals, values: flags } = parseArgs({
  allowPositionals: true,
  options: {
    addon: { type: "string" },
    json: { type: "boolean", default: false },
    lean: { type: "boolean", default: false },
    part: { type: "string", default: "1/1" },
    repeats: { type: "string", default: "250" },
    calls: { type: "string", default: "10000" },
  },
});

/** Neighbours stay together: they have kernels in common. */
const [thisPart, parts] = flags.part.split("/").map(Number);
const samples = PROBLEMS.slice(
  Math.floor(((thisPart - 1) * PROBLEMS.length) / parts),
  Math.floor((thisPart * PROBLEMS.length) / parts),
);

type Line = Readonly<Record<string, string | number>>;

const round = (x: number): number => Number(x.toPrecision(4));

/** Median over batches of calls that are given without waiting in between, in ms a call. */
async function time(fa: Attention, call: () => Promise<readonly Tensor[]>): Promise<number> {
  const batch = async (calls: number): Promise<number> => {
    const start = performance.now();
    for (let n = 0; n < calls; n++) for (const tensor of await call()) tensor.dispose();
    await fa.sync();
    return (performance.now() - start) / calls;
  };
  await batch(2);
  const once = await batch(3);
  const calls = Math.max(1, Math.min(200, Math.round(80 / once)));
  const all: number[] = [];
  for (let n = 0; n < 5; n++) all.push(await batch(calls));
  return all.toSorted((a, b) => a - b)[2];
}

interface Timed {
  readonly dtype: FloatDType;
  readonly B: number;
  readonly H: number;
  readonly Hkv?: number;
  readonly Sq: number;
  readonly Skv: number;
  readonly D: number;
  readonly causal?: boolean;
}

const square = (dtype: FloatDType, D: number, S: number, causal: boolean): Timed => {
  return { dtype, B: 16_384 / S, H: 2048 / D, Sq: S, Skv: S, D, causal };
};
const FORWARD: readonly Timed[] = [
  ...[64, 128, 256].flatMap((D) => [false, true].map((causal) => square("bfloat16", D, 4096, causal))),
  square("float16", 128, 4096, false),
  square("float32", 128, 4096, false),
];
const BACKWARD: readonly Timed[] = [square("bfloat16", 128, 4096, false), square("bfloat16", 64, 4096, true)];
const DECODE: readonly Timed[] = [
  [1, 8192],
  [8, 8192],
  [64, 8192],
  [1, 131_072],
  [8, 32_768],
].map(([B, Skv]) => ({ dtype: "bfloat16", B, H: 32, Hkv: 8, Sq: 1, Skv, D: 128 }));

async function timed(fa: Attention, t: Timed, backward: boolean): Promise<Line> {
  const { dtype, B, H, Hkv = H, Sq, Skv, D, causal = false } = t;
  const small = { B: 1, H: H / Hkv, Hkv: 1, Sq: Math.min(Sq, 200), Skv: 300, D, Dv: D };
  // Refuses to time a wrong answer.
  const sample: Sample = { name: `${dtype} D=${D}`, ...small, dtype, options: { causal }, general: false };
  await verify(fa, sample.name, dtype, (one) => forwardOf(one, sample));
  const q = await tensorOf(fa, [B, H, Sq, D], dtype, 1);
  const k = await tensorOf(fa, [B, Hkv, Skv, D], dtype, 2);
  const v = await tensorOf(fa, [B, Hkv, Skv, D], dtype, 3);
  const options = { causal };
  let ms: number;
  if (backward) {
    const { out, lse } = await fa.attention(q, k, v, { ...options, returnLse: true });
    ms = await time(fa, async () => {
      const { dq, dk, dv } = await fa.attentionBackward({ q, k, v, out, lse, dout: out }, options);
      return [dq, dk, dv];
    });
    out.dispose();
    lse.dispose();
  } else {
    ms = await time(fa, async () => [(await fa.attention(q, k, v, options)).out]);
  }
  for (const tensor of [q, k, v]) tensor.dispose();
  const flops = 4 * B * H * Sq * Skv * D * (causal ? 0.5 : 1) * (backward ? 2.5 : 1);
  const bytes = 2 * B * Hkv * Skv * D * bytesPerElement(dtype);
  const name = `${dtype} B=${B} H=${H}/${Hkv} S=${Sq}x${Skv} D=${D}${causal ? " causal" : ""}${backward ? " backward" : ""}`;
  return { name, ms: round(ms), tflops: round(flops / ms / 1e9), gbps: round(bytes / ms / 1e6) };
}

/** Largest difference of a result, as a part of its largest element. */
const BOUND: Readonly<Record<FloatDType, number>> = { float32: 1e-5, float16: 4e-3, bfloat16: 3e-2, float8e4m3: 3e-2 };

/** Fails unless `work` gives what it gives in float64. */
async function verify(
  fa: Attention,
  name: string,
  dtype: FloatDType,
  work: (one: Attention) => Promise<readonly Tensor[]>,
): Promise<void> {
  const truth = await createAttention({ backends: [reference()] });
  const [got, expected] = await Promise.all(
    [fa, truth].map(async (one) => {
      const all: Float32Array[] = [];
      for (const tensor of await work(one)) {
        const full = tensor.dtype === "float32" ? tensor : await one.cast(tensor, "float32");
        all.push((await full.data()) as Float32Array);
        tensor.dispose();
        full.dispose();
      }
      return all;
    }),
  );
  await truth.dispose();
  for (const [part, values] of expected.entries()) {
    const largest = values.reduce((most, x) => Math.max(most, Math.abs(x)), 1e-30);
    for (const [n, x] of got[part].entries()) {
      if (!(Math.abs(x - values[n]) <= BOUND[dtype] * largest))
        throw new Error(`${name}: element ${n} of result ${part} is ${x}, not ${values[n]}`);
    }
  }
}

async function forwardOf(one: Attention, p: Sample): Promise<Tensor[]> {
  const made = await make(one, p);
  const { out } = await one.attention(made.q, made.k, made.v, made.options);
  made.dispose();
  return [out];
}

/** Each op once: what tells soonest that a kernel is wrong on a device. */
async function smoke(fa: Attention): Promise<Line[]> {
  const wrong: string[] = [];
  const check = async (name: string, dtype: FloatDType, work: (one: Attention) => Promise<Tensor[]>): Promise<void> => {
    await verify(fa, name, dtype, work).catch((error: unknown) => wrong.push((error as Error).message));
  };
  for (const dtype of new Set(samples.map((sample) => sample.dtype))) {
    await check(`${dtype} cast`, dtype, async (one) => [await tensorOf(one, [3, 70], dtype, 1)]);
    const ours = samples.filter((sample) => sample.dtype === dtype);
    for (const p of ours) await check(p.name, dtype, (one) => forwardOf(one, p));
    for (const p of ours.filter(({ D }) => D <= 128)) {
      await check(`${p.name} backward`, dtype, async (one) => {
        const { q, k, v, options, dispose } = await make(one, p);
        const { out, lse } = await one.attention(q, k, v, { ...options, returnLse: true });
        const { dq, dk, dv } = await one.attentionBackward({ q, k, v, out, lse, dout: out }, options);
        dispose();
        out.dispose();
        return [lse, dq, dk, dv];
      });
    }
    await check(`${dtype} linear`, dtype, async (one) => {
      const [x, weight] = [await tensorOf(one, [75, 72], dtype, 1), await tensorOf(one, [130, 72], dtype, 2)];
      const y = await one.linear(x, weight);
      const { dx, dweight, dbias } = await one.linearBackward({ x, weight, dy: y });
      return [y, dx, dweight, dbias];
    });
  }
  if (wrong.length > 0) throw new Error(wrong.join("\n"));
  return [{ name: "each op gives what it gives in float64" }];
}

/** Host time: of a call on resident tensors, and of its parts. 100 calls of little work that are not waited for, median of 15. */
async function hostTime(fa: Attention): Promise<Line[]> {
  const measure = async (name: string, wait: () => Promise<unknown>, call: () => unknown): Promise<Line> => {
    const all: number[] = [];
    for (let sample = 0; sample < 35; sample++) {
      const start = performance.now();
      for (let n = 0; n < 100; n++) {
        const result = call();
        if (result instanceof Promise) await result;
      }
      if (sample >= 20) all.push((performance.now() - start) * 10);
      await wait();
    }
    return { name, microseconds: round(all.toSorted((one, other) => one - other)[7]) };
  };
  const x = await tensorOf(fa, [2, 1, 256, 64], "bfloat16", 1);
  const lines = [
    await measure(
      "a call, B=2 H=1 S=256 D=64",
      () => fa.sync(),
      async () => (await fa.attention(x, x, x)).out.dispose(),
    ),
  ];
  x.dispose();
  // The addon alone: into it and back, and a kernel of one warp.
  const { addon } = loadAddon(flags.addon);
  const slots = new Float64Array(MOST_SLOTS);
  const instance = new addon!.Instance(0, slots);
  const at = instance.allocate(4096);
  const wait = (): Promise<unknown> => new Promise((resolve) => instance.read(at, new Uint8Array(0), resolve));
  const cast = (elements: number) => (): void => {
    slots.set([at, at + 2048, DTYPE.float32, DTYPE.float32, elements]);
    instance.run(OP.cast);
  };
  lines.push(await measure("of it: into the addon and back", wait, cast(0)));
  lines.push(await measure("of it: that, and a launch", wait, cast(32)));
  instance.close();
  return lines;
}

/** Projections of 4096 tokens, forward and backward. */
async function linear(fa: Attention): Promise<Line[]> {
  const lines: Line[] = [];
  for (const dtype of ["bfloat16", "float16", "float32"] as const) {
    const size = 4096;
    const x = await tensorOf(fa, [size, size], dtype, 1);
    const weight = await tensorOf(fa, [size, size], dtype, 2);
    const forward = await time(fa, async () => [await fa.linear(x, weight)]);
    const backward = await time(
      fa,
      async () => Object.values(await fa.linearBackward({ x, weight, dy: x })) as Tensor[],
    );
    for (const tensor of [x, weight]) tensor.dispose();
    for (const [name, ms, products] of [
      ["forward", forward, 1],
      ["backward", backward, 2],
    ] as const) {
      const flops = 2 * size ** 3 * products;
      lines.push({ name: `${dtype} linear 4096^3 ${name}`, ms: round(ms), tflops: round(flops / ms / 1e9) });
    }
  }
  return lines;
}

async function repeats(fa: Attention): Promise<Line[]> {
  const count = Number(flags.repeats);
  for (const p of PROBLEMS) {
    const made = await make(fa, p);
    const first = await runOnce(fa, made);
    for (let n = 1; n < count; n++) {
      const again = await runOnce(fa, made);
      const same = again.every((bytes, part) => Buffer.compare(bytes, first[part]) === 0);
      if (!same) throw new Error(`${p.name}: run ${n} gave other bits`);
    }
    made.dispose();
  }
  return [
    { name: `${PROBLEMS.length} problems, ${count} times each, bit-equal`, problems: PROBLEMS.length, repeats: count },
  ];
}

async function flat(fa: Attention): Promise<Line[]> {
  const count = Number(flags.calls);
  const made = await make(fa, PROBLEMS[2]);
  await runOnce(fa, made);
  const before = { device: fa.memory().currentBytes, rss: process.memoryUsage.rss() };
  for (let n = 0; n < count; n++) {
    (await fa.attention(made.q, made.k, made.v, made.options)).out.dispose();
    if (n % 1000 === 0) await fa.sync();
  }
  await fa.sync();
  const grown = fa.memory().currentBytes - before.device;
  made.dispose();
  if (grown !== 0) throw new Error(`${count} calls left ${grown} bytes on the device`);
  const rss = (process.memoryUsage.rss() - before.rss) / 2 ** 20;
  if (rss > 64) throw new Error(`${count} calls left ${rss} MiB in the process`);
  return [{ name: `${count} calls leave memory flat`, deviceBytes: grown, hostMebibytes: round(rss) }];
}

/** More than 2^31 elements of q and out: the last rows are what they are in a problem of their own. */
async function large(): Promise<Line[]> {
  const backend = (await cuda({ addon: flags.addon }).open()) as CudaBackend;
  const [D, keys, rows, Sq] = [128, 64, 64, 2 ** 24 + 100];
  const run = (problem: Problem, bindings: Bindings): void => {
    const planned = plan(problem, backend.capabilities, backend.kernels);
    if (!planned.ok) throw new Error(planned.reasons.map(({ reason }) => reason).join());
    backend.run(planned, bindings);
  };
  const attention = (rowCount: number): Problem => {
    const spec = (count: number) => ({ shape: [1, 1, count, D], dtype: "bfloat16" }) as const;
    return attentionProblem({ q: spec(rowCount), k: spec(keys), v: spec(keys) });
  };
  // Bits of bfloat16 numbers of size 1 to 2, of either sign.
  const random = (elements: number, seed: number): Uint8Array => {
    const bits = Uint16Array.from({ length: elements }, (_, n) => 0x3f80 | (Math.imul(n + seed, 40_503) & 0x807f));
    return new Uint8Array(bits.buffer);
  };
  const k = backend.allocate(keys * D * 2, random(keys * D, 1));
  const some = backend.allocate(rows * D * 2, random(rows * D, 2));
  const q = backend.allocate(Sq * D * 2, "zero");
  const out = backend.allocate(Sq * D * 2);
  const alone = backend.allocate(rows * D * 2);
  const endOf = (buffer: DeviceBuffer): DeviceBuffer =>
    backend.wrap({ pointer: backend.native(buffer).pointer + BigInt((Sq - rows) * D * 2) }, rows * D * 2);
  run({ op: "cast", dtype: "bfloat16", resultDType: "bfloat16", elements: rows * D }, { x: some, y: endOf(q) });
  run(attention(Sq), { q, k, v: k, out });
  run(attention(rows), { q: some, k, v: k, out: alone });
  const [got, expected] = await Promise.all([backend.read(endOf(out)), backend.read(alone)]);
  await backend.dispose();
  if (Buffer.compare(got, expected) !== 0) throw new Error("rows past 2^31 elements are wrong");
  return [{ name: "rows past 2^31 elements are right", elements: Sq * D }];
}

async function faults(): Promise<Line[]> {
  const lines: Line[] = [];
  for (const [name, fault] of Object.entries(FAULTS)) {
    const start = performance.now();
    await fault(flags.addon);
    lines.push({ name, ms: Math.round(performance.now() - start) });
  }
  return lines;
}

async function main(): Promise<void> {
  if (positionals[0] === "broken") return breakContext(flags.addon);
  const pool = flags.lean ? { poolBytes: 0 } : { poison: positionals[0] === "repeats" };
  const fa = await createAttention({ backends: [cuda({ addon: flags.addon, ...pool })] });
  const kernel = positionals[0];
  let lines: Line[];
  switch (kernel) {
    case "forward":
    case "backward":
    case "decode": {
      lines = [];
      for (const t of kernel === "forward" ? FORWARD : kernel === "backward" ? BACKWARD : DECODE)
        lines.push(await timed(fa, t, kernel === "backward"));
      break;
    }
    case "calls":
      lines = await hostTime(fa);
      break;
    case "linear":
      lines = await linear(fa);
      break;
    case "smoke":
      lines = await smoke(fa);
      break;
    case "cases": {
      const all = thisPart === parts ? [...samples, FLOAT8] : samples;
      for (const p of all) {
        const made = await make(fa, p);
        await runOnce(fa, made);
        made.dispose();
      }
      lines = [
        { name: `part ${flags.part} of problems that reach every row of the kernel table ran`, problems: all.length },
      ];
      break;
    }
    case "repeats":
      lines = await repeats(fa);
      break;
    case "flat":
      lines = await flat(fa);
      break;
    case "faults":
      lines = await faults();
      break;
    case "large":
      lines = await large();
      break;
    default:
      throw new Error(
        `no kernel ${kernel}: forward, backward, decode, linear, calls, smoke, cases, repeats, flat, large, faults`,
      );
  }
  await fa.dispose();
  if (flags.json) console.log(JSON.stringify(lines));
  else console.table(lines);
}

await main();
