/**
 * The workbench of the kernels: checks each on its case against float64, refuses to time a wrong one, then prints ms,
 * GFLOP/s and the percentage of the roof that was measured in the same run.
 *
 *   npm run kernel -- wasm/[forward|backward|linear|decode] [--variant plain|relaxed] [--threads 1] [--S 1024] [--D 64] [--H 8]
 *               [--Hkv 8] [--causal] [--dtype float32] [--tile 96x96] [--repeats 20]
 */
import { parseArgs } from "node:util";
import {
  attentionProblem,
  bytesPerElement,
  countFlops,
  decode,
  encode,
  linearProblem,
  plan,
  reference,
  type Backend,
  type DeviceBuffer,
  type FloatDType,
  type Plan,
  type Problem,
} from "@fa/core";
import { wasm } from "../src/index.ts";
import { createModule, supportedVariant, type Variant } from "../src/module.ts";

const { values: args, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    variant: { type: "string", default: supportedVariant() },
    threads: { type: "string", default: "1" },
    S: { type: "string", default: "1024" },
    D: { type: "string", default: "64" },
    H: { type: "string", default: "8" },
    Hkv: { type: "string" },
    causal: { type: "boolean", default: false },
    dtype: { type: "string", default: "float32" },
    tile: { type: "string" },
    repeats: { type: "string", default: "20" },
  },
});
const kinds = positionals.length > 0 ? positionals : ["forward", "backward", "linear", "decode"];
const [S, D, H, repeats] = [args.S, args.D, args.H, args.repeats].map(Number) as [number, number, number, number];
const Hkv = Number(args.Hkv ?? H);
const dtype = args.dtype as Exclude<FloatDType, "float8e4m3">;
const variant = args.variant as Variant;

const backend = await wasm({ simd: variant, threads: Number(args.threads) }).open();
const naive = await reference({ algorithm: "naive" }).open();
const BYTES = bytesPerElement(dtype);
/** Relative, and as a share of the largest value. */
const TOLERANCES: Readonly<Record<"float32" | "float16" | "bfloat16", readonly [number, number]>> = {
  float32: [1e-5, 4e-6],
  float16: [2e-3, 2e-3],
  bfloat16: [2e-2, 2e-2],
};
const { gflops, what } = await backend.roof();
/** The best that was measured so far: before each kernel and after it, since a neighbour only ever lowers it. */
let roof = gflops;
console.log(`${backend.device}, roof ${roof.toFixed(1)} GFLOP/s, ${what}, Node ${process.versions.node}`);

for (const kind of kinds) {
  switch (kind) {
    case "forward":
    case "backward":
      await attention(kind, S, S);
      break;
    case "decode":
      await attention("forward", 1, 4 * S);
      break;
    case "linear":
      await linear();
      break;
    default:
      throw new Error(`no kernel ${kind}`);
  }
}

async function attention(kind: "forward" | "backward", Sq: number, Skv: number): Promise<void> {
  const options = { causal: args.causal };
  const op = kind === "forward" ? "attention" : "attentionBackward";
  const rows = { q: Sq, k: Skv, v: Skv, out: Sq, dout: Sq, dq: Sq, dk: Skv, dv: Skv };
  const heads = { q: H, k: Hkv, v: Hkv, out: H, dout: H, dq: H, dk: Hkv, dv: Hkv };
  const specs = (hq: number, hkv: number) => ({
    q: { shape: [1, hq, Sq, D], dtype },
    k: { shape: [1, hkv, Skv, D], dtype },
    v: { shape: [1, hkv, Skv, D], dtype },
  });
  // The definition is quadratic and slow: it is asked for the first key head and its group, a problem of its own.
  const checked = { q: H / Hkv, k: 1, v: 1, out: H / Hkv, dout: H / Hkv, dq: H / Hkv, dk: 1, dv: 1 };
  const share = specs(checked.q, 1);

  const values: Record<string, Float64Array> = {};
  for (const name of ["q", "k", "v", "dout"] as const) values[name] = rounded(heads[name] * rows[name] * D);
  const firstHeads = (name: keyof typeof rows): number => checked[name] * rows[name] * D;
  const small: Record<string, Float64Array> = {};
  for (const name of ["q", "k", "v", "dout"] as const) small[name] = values[name].slice(0, firstHeads(name));

  const results = kind === "forward" ? (["out"] as const) : (["dq", "dk", "dv"] as const);
  const ours = uploadAll(backend, values);
  const theirs = uploadAll(naive, small);
  for (const [target, hq] of [
    [ours, H],
    [theirs, checked.q],
  ] as const) {
    const open = target === ours ? backend : naive;
    target.out = open.allocate(hq * Sq * D * BYTES);
    target.lse = open.allocate(hq * Sq * 4);
    for (const name of results) {
      const count = target === ours ? heads[name] : checked[name];
      target[name] ??= open.allocate(count * rows[name] * D * BYTES);
    }
    const forward = attentionProblem(target === ours ? specs(H, Hkv) : share, options);
    await open.run(planned(open, forward), target);
  }
  await naive.run(planned(naive, attentionProblem(share, options, op)), theirs);
  const expected: Record<string, Float64Array> = {};
  for (const name of results) expected[name] = decode(dtype, await naive.read(theirs[name]));

  const mode = `${args.causal ? " causal" : ""} ${dtype}`;
  const title = `${Sq === 1 ? "decode" : kind} H=${H} Hkv=${Hkv} Sq=${Sq} Skv=${Skv} D=${D}${mode}`;
  const problem = attentionProblem(specs(H, Hkv), options, op);
  await verifyAndTime(title, planned(backend, problem), ours, expected);
  if (Sq === 1) await readBandwidth(2 * Hkv * Skv * D * BYTES);
  freeAll(backend, ours);
  freeAll(naive, theirs);
}

/** x [S, H D] times a fused weight [3 H D, H D], as before attention; 16 rows are checked. */
async function linear(): Promise<void> {
  const K = H * D;
  const problem = (M: number): Problem =>
    linearProblem("linear", { x: { shape: [M, K], dtype }, weight: { shape: [3 * K, K], dtype } }, [K, K, K]);
  const [x, weight] = [rounded(S * K), rounded(3 * K * K)];
  const names = ["y0", "y1", "y2"];
  const ours = uploadAll(backend, { x, weight });
  const theirs = uploadAll(naive, { x: x.slice(0, 16 * K), weight });
  for (const name of names) {
    ours[name] = backend.allocate(S * K * BYTES);
    theirs[name] = naive.allocate(16 * K * BYTES);
  }
  await naive.run(planned(naive, problem(16)), theirs);
  const expected: Record<string, Float64Array> = {};
  for (const name of names) expected[name] = decode(dtype, await naive.read(theirs[name]));
  await verifyAndTime(`linear M=${S} N=${3 * K} K=${K} ${dtype}`, planned(backend, problem(S)), ours, expected);
  freeAll(backend, ours);
  freeAll(naive, theirs);
}

async function verifyAndTime(
  title: string,
  made: Plan,
  buffers: Readonly<Record<string, DeviceBuffer>>,
  expected: Readonly<Record<string, Float64Array>>,
): Promise<void> {
  await backend.run(made, buffers);
  const [relative, share] = TOLERANCES[dtype];
  for (const [result, want] of Object.entries(expected)) {
    const got = decode(dtype, await backend.read(buffers[result]));
    let top = 0;
    for (const x of want) top = Math.max(top, Math.abs(x));
    want.forEach((x, n) => {
      if (!(Math.abs(got[n] - x) <= relative * Math.abs(x) + 1e-6 + share * top)) {
        console.log(`${title}: WRONG, not timed: ${result}[${n}] is ${got[n]} instead of ${x}`);
        process.exit(1);
      }
    });
  }
  let best = Infinity;
  for (let n = 0; n < repeats; n++) {
    const start = performance.now();
    await backend.run(made, buffers);
    best = Math.min(best, performance.now() - start);
  }
  const reached = countFlops(made.problem) / best / 1e6;
  roof = Math.max(roof, (await backend.roof()).gflops);
  const percent = ((100 * reached) / roof).toFixed(1);
  const { q, kv } = made.tile;
  console.log(
    `${title}, tile ${q}x${kv}: ${best.toFixed(3)} ms, ${reached.toFixed(1)} GFLOP/s, ${percent} % of a roof of ${roof.toFixed(1)}`,
  );
}

/** Of one thread. Memory that nobody has written is one page of zeros, which never leaves the first-level cache. */
async function readBandwidth(bytes: number): Promise<void> {
  const module = await createModule();
  const address = module.arena.allocate(bytes);
  module.HEAPU8.fill(1, address, address + bytes);
  let best = Infinity;
  for (let n = 0; n < repeats; n++) {
    const start = performance.now();
    module._faRoofRead(address, bytes);
    best = Math.min(best, performance.now() - start);
  }
  console.log(`  reading the same ${bytes} bytes: ${best.toFixed(3)} ms, ${(bytes / best / 1e6).toFixed(1)} GB/s`);
}

function planned(open: Backend, problem: Problem): Plan {
  const [q, kv] = args.tile?.split("x").map(Number) ?? [];
  const rows = open.kernels.map((row) => (q && kv && open === backend ? { ...row, tile: { q, kv } } : row));
  const made = plan(problem, open.capabilities, rows);
  if (!made.ok) throw new Error(made.reasons.map(({ reason }) => reason).join("; "));
  return made;
}

/** Normal-ish numbers that the dtype holds exactly. */
function rounded(length: number): Float64Array {
  const values = Float64Array.from({ length }, () => Math.random() + Math.random() + Math.random() - 1.5);
  return decode(dtype, encode(dtype, values));
}

function uploadAll(open: Backend, values: Readonly<Record<string, Float64Array>>): Record<string, DeviceBuffer> {
  return Object.fromEntries(
    Object.entries(values).map(([name, numbers]) => {
      const bytes = encode(dtype, numbers);
      return [name, open.allocate(bytes.byteLength, bytes)];
    }),
  );
}

function freeAll(open: Backend, buffers: Readonly<Record<string, DeviceBuffer>>): void {
  for (const buffer of Object.values(buffers)) open.free(buffer);
}
