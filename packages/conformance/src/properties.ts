import * as fc from "fast-check";
import { dropoutMask, keepThreshold } from "@fa/core";
import { agree, hold, same, type Check } from "./check.ts";
import { Random } from "./random.ts";
import type { Inputs, Numbers, Options, Subject } from "./subject.ts";

/** How many random problems each property is tried on, and the seed that they follow from. */
export interface PropertyRuns {
  readonly runs: number;
  readonly seed: number;
}

/** A small random problem; its numbers follow from `seed`. */
interface Drawn {
  readonly B: number;
  readonly Hkv: number;
  readonly group: number;
  readonly Sq: number;
  readonly Skv: number;
  readonly D: number;
  readonly Dv: number;
  readonly seed: number;
  readonly causal: false | "bottom-right" | "top-left";
  readonly window: readonly [number, number];
  readonly softcap: number;
}

const side = fc.integer({ min: -1, max: 20 });
const drawn: fc.Arbitrary<Drawn> = fc.record({
  B: fc.integer({ min: 1, max: 2 }),
  Hkv: fc.integer({ min: 1, max: 2 }),
  group: fc.integer({ min: 1, max: 3 }),
  Sq: fc.integer({ min: 1, max: 40 }),
  Skv: fc.integer({ min: 1, max: 70 }),
  D: fc.integer({ min: 1, max: 20 }),
  Dv: fc.integer({ min: 1, max: 20 }),
  seed: fc.nat(),
  causal: fc.constantFrom(false as const, "bottom-right" as const, "top-left" as const),
  window: fc.tuple(side, side),
  softcap: fc.constantFrom(0, 0, 3),
});

interface Problem extends Inputs {
  readonly random: Random;
  readonly options: Options;
  readonly dims: Drawn & { readonly H: number };
}

function problemOf(d: Drawn): Problem {
  const random = new Random(`property ${d.seed}`);
  const H = d.Hkv * d.group;
  return {
    random,
    dims: { ...d, H },
    q: random.numbers([d.B, H, d.Sq, d.D]),
    k: random.numbers([d.B, d.Hkv, d.Skv, d.D]),
    v: random.numbers([d.B, d.Hkv, d.Skv, d.Dv]),
    options: { causal: d.causal, window: d.window, softcap: d.softcap },
  };
}

/** What holds for attention on any problem, as checks on random ones. */
export function propertyChecks({ runs, seed: firstSeed }: PropertyRuns): Check[] {
  const property = (
    name: string,
    capability: string,
    holds: (subject: Subject, p: Problem) => Promise<void>,
  ): Check => ({
    name: `property: ${name}`,
    capability,
    run: (subject) =>
      fc.assert(
        fc.asyncProperty(drawn, (d) => holds(subject, problemOf(d))),
        { numRuns: runs, seed: firstSeed, endOnFailure: false },
      ),
  });

  return [
    property("a constant added to a row's bias leaves out and shifts lse", "bias", async (s, p) => {
      const { B, H, Sq, Skv } = p.dims;
      const bias = p.random.numbers([B, H, Sq, Skv]);
      const shift = Float64Array.from({ length: B * H * Sq }, () => p.random.integer(64) / 8 - 4);
      const shifted = { ...bias, values: Float64Array.from(bias.values, (x, n) => x + shift[Math.floor(n / Skv)]) };
      const plain = await s.attention(p, { ...p.options, bias });
      const moved = await s.attention(p, { ...p.options, bias: shifted });
      agree("out", moved.out, plain.out);
      agree(
        "lse",
        moved.lse,
        plain.lse.map((x, n) => x + shift[n]),
      );
    }),
    property("permuting keys together with values changes nothing", "plain", async (s, p) => {
      const { softcap } = p.options;
      const order = p.random.permutation(p.dims.Skv);
      const plain = await s.attention(p, { softcap });
      const moved = await s.attention({ q: p.q, k: permuted(p.k, 2, order), v: permuted(p.v, 2, order) }, { softcap });
      agree("out", moved.out, plain.out);
      agree("lse", moved.lse, plain.lse);
    }),
    property("permuting batches permutes results", "plain", async (s, p) => {
      const order = p.random.permutation(p.dims.B);
      const { Sq, H, B, Dv } = p.dims;
      const plain = await s.attention(p, p.options);
      const moved = await s.attention(
        { q: permuted(p.q, 0, order), k: permuted(p.k, 0, order), v: permuted(p.v, 0, order) },
        p.options,
      );
      const out = permuted({ shape: [B, H, Sq, Dv], values: plain.out }, 0, order);
      agree("out", moved.out, out.values);
    }),
    property("permuting heads permutes results", "plain", async (s, p) => {
      const { Hkv, group, B, H, Sq, Dv } = p.dims;
      const order = p.random.permutation(Hkv);
      const queries = order.flatMap((hkv) => Array.from({ length: group }, (_, g) => hkv * group + g));
      const plain = await s.attention(p, p.options);
      const moved = await s.attention(
        { q: permuted(p.q, 1, queries), k: permuted(p.k, 1, order), v: permuted(p.v, 1, order) },
        p.options,
      );
      agree("out", moved.out, permuted({ shape: [B, H, Sq, Dv], values: plain.out }, 1, queries).values);
    }),
    property("out is linear in v", "plain", async (s, p) => {
      const other = p.random.numbers(p.v.shape);
      const sum = { ...p.v, values: Float64Array.from(p.v.values, (x, n) => 2 * x - other.values[n]) };
      const first = await s.attention(p, p.options);
      const second = await s.attention({ ...p, v: other }, p.options);
      const both = await s.attention({ ...p, v: sum }, p.options);
      agree(
        "out",
        both.out,
        first.out.map((x, n) => 2 * x - second.out[n]),
      );
    }),
    property("out lies between the smallest and largest value", "plain", async (s, p) => {
      const { out } = await s.attention(p, p.options);
      const values = Array.from(p.v.values);
      const [least, most] = [Math.min(0, ...values), Math.max(0, ...values)];
      hold(
        out.every((x) => x >= least - 1e-5 && x <= most + 1e-5),
        `out leaves [${least}, ${most}]`,
      );
    }),
    property("v = 1 gives 1 wherever a row sees a key", "plain", async (s, p) => {
      const ones = { ...p.v, values: new Float64Array(p.v.values.length).fill(1) };
      const { out, lse } = await s.attention({ ...p, v: ones }, p.options);
      const { Dv } = p.dims;
      agree(
        "out",
        out,
        out.map((_, n) => (lse[Math.floor(n / Dv)] === -Infinity ? 0 : 1)),
      );
    }),
    property("every block size agrees, forward and backward", "block-size", async (s, p) => {
      const { B, H, Sq, Dv } = p.dims;
      const dout = p.random.numbers([B, H, Sq, Dv]);
      const dropout = { p: 0.25, seed: p.dims.seed };
      const planned = await s.backward(p, dout, { ...p.options, dropout });
      const blockSize = { q: 1 + p.random.integer(40), kv: 1 + p.random.integer(40) };
      const forced = await s.backward(p, dout, { ...p.options, dropout, blockSize });
      for (const name of ["out", "lse"] as const) agree(name, forced[name], planned[name]);
      for (const name of ["dq", "dk", "dv"] as const) agree(name, forced[name], planned[name], { kind: "gradient" });
    }),
    property("keys split in pieces and merged by lse give the whole, empty pieces included", "plain", async (s, p) => {
      const { Skv, Dv } = p.dims;
      const whole = await s.attention(p);
      const cuts = [0, p.random.integer(Skv + 1), p.random.integer(Skv + 1), Skv].toSorted((a, b) => a - b);
      const merged = {
        out: new Float64Array(whole.out.length),
        lse: new Float64Array(whole.lse.length).fill(-Infinity),
      };
      for (let piece = 0; piece + 1 < cuts.length; piece++) {
        const [from, to] = [cuts[piece], cuts[piece + 1]];
        const part = await s.attention({ q: p.q, k: rowsOf(p.k, from, to), v: rowsOf(p.v, from, to) });
        for (let r = 0; r < merged.lse.length; r++) {
          const lse = logAddExp(merged.lse[r], part.lse[r]);
          const [kept, added] =
            lse === -Infinity ? [0, 0] : [Math.exp(merged.lse[r] - lse), Math.exp(part.lse[r] - lse)];
          for (let d = r * Dv; d < (r + 1) * Dv; d++) merged.out[d] = kept * merged.out[d] + added * part.out[d];
          merged.lse[r] = lse;
        }
      }
      agree("out", merged.out, whole.out);
      agree("lse", merged.lse, whole.lse);
    }),
    property(
      "causal and window equal the same visibility given as a mask, and as a bias of -Infinity",
      "mask",
      async (s, p) => {
        const { Sq, Skv, causal, window } = p.dims;
        const diagonal = Skv - Sq;
        const visible = (i: number, j: number): boolean =>
          (causal === false || j <= i + (causal === "top-left" ? 0 : diagonal)) &&
          (window[0] === -1 || j >= i + diagonal - window[0]) &&
          (window[1] === -1 || j <= i + diagonal + window[1]);
        const shape = [1, 1, Sq, Skv];
        const at = (n: number): boolean => visible(Math.floor(n / Skv), n % Skv);
        const mask: Numbers = { shape, values: Uint8Array.from({ length: Sq * Skv }, (_, n) => (at(n) ? 1 : 0)) };
        const bias: Numbers = {
          shape,
          values: Float64Array.from({ length: Sq * Skv }, (_, n) => (at(n) ? 0 : -Infinity)),
        };
        const { softcap } = p.options;
        const banded = await s.attention(p, p.options);
        for (const options of [
          { softcap, mask },
          { softcap, bias },
        ]) {
          const masked = await s.attention(p, options);
          agree("out", masked.out, banded.out);
          agree("lse", masked.lse, banded.lse);
        }
      },
    ),
    property("shared key heads equal the same heads repeated", "gqa", async (s, p) => {
      const { Hkv, group } = p.dims;
      const repeat = Array.from({ length: Hkv * group }, (_, h) => Math.floor(h / group));
      const shared = await s.attention(p, p.options);
      const apart = await s.attention({ q: p.q, k: permuted(p.k, 1, repeat), v: permuted(p.v, 1, repeat) }, p.options);
      agree("out", apart.out, shared.out);
      agree("lse", apart.lse, shared.lse);
    }),
    property("rank 3 equals rank 4 with one head", "rank-3", async (s, p) => {
      const one = ({ shape: [B, , S, D] }: Numbers, random: Random): Numbers => random.numbers([B, 1, S, D]);
      const four = { q: one(p.q, p.random), k: one(p.k, p.random), v: one(p.v, p.random) };
      const flat = ({ shape: [B, , S, D], values }: Numbers): Numbers => ({ shape: [B, S, D], values });
      const ranked = await s.attention(four, p.options);
      const flattened = await s.attention({ q: flat(four.q), k: flat(four.k), v: flat(four.v) }, p.options);
      same("out", flattened.out, ranked.out);
      same("lse", flattened.lse, ranked.lse);
    }),
    property("bshd equals bhsd, forward and backward", "layout", async (s, p) => {
      const { B, H, Hkv, Sq, Skv, Dv } = p.dims;
      const dout = p.random.numbers([B, H, Sq, Dv]);
      const plain = await s.backward(p, dout, p.options);
      const turned = await s.backward(
        { q: transposed(p.q), k: transposed(p.k), v: transposed(p.v) },
        transposed(dout),
        { ...p.options, layout: "bshd" },
      );
      const back = (values: Float64Array, heads: number, length: number) =>
        transposed({ shape: [B, length, heads, values.length / (B * heads * length)], values }).values;
      agree("out", back(turned.out, H, Sq), plain.out);
      agree("lse", turned.lse, plain.lse);
      agree("dq", back(turned.dq, H, Sq), plain.dq, { kind: "gradient" });
      agree("dk", back(turned.dk, Hkv, Skv), plain.dk, { kind: "gradient" });
      agree("dv", back(turned.dv, Hkv, Skv), plain.dv, { kind: "gradient" });
    }),
    property(
      "dropout drops exactly the elements of the contract's generator, at the rate asked for",
      "dropout",
      async (s, p) => {
        const { B, H, Sq, Skv } = p.dims;
        const probability = (1 + p.random.integer(15)) / 16;
        const [seedLow, seedHigh, offset] = [p.random.word(), p.random.word(), p.random.word()];
        const bits = (BigInt(seedHigh) << 32n) | BigInt(seedLow);
        const zeros = (length: number, heads: number): Numbers => ({
          shape: [B, heads, length, 2],
          values: new Float64Array(B * heads * length * 2),
        });
        const identity = new Float64Array(B * Skv * Skv);
        for (let n = 0; n < B * Skv; n++) identity[n * Skv + (n % Skv)] = 1;
        const inputs = { q: zeros(Sq, H), k: zeros(Skv, 1), v: { shape: [B, 1, Skv, Skv], values: identity } };
        const { out } = await s.attention(inputs, { dropout: { p: probability, seed: bits, offset } });
        let kept = 0;
        for (let batchHead = 0; batchHead < B * H; batchHead++) {
          const keep = dropoutMask({ p: probability, seedLow, seedHigh, offset }, batchHead);
          for (let i = 0; i < Sq; i++) {
            for (let j = 0; j < Skv; j++) {
              const got = out[(batchHead * Sq + i) * Skv + j];
              hold((got !== 0) === keep(i, j), `element (${batchHead}, ${i}, ${j}) is ${got}`);
              if (got !== 0) kept++;
            }
          }
        }
        const draws = B * H * Sq * Skv;
        const rate = 1 - keepThreshold(probability) / 65536;
        const sigma = Math.sqrt(draws * rate * (1 - rate));
        hold(Math.abs(kept - draws * rate) <= 5 * sigma + 1, `kept ${kept} of ${draws}, expected ${draws * rate}`);
      },
    ),
    property("the mean over dropout seeds tends to attention without dropout", "dropout", async (s, p) => {
      const SEEDS = 48;
      const plain = await s.attention(p, p.options);
      const mean = new Float64Array(plain.out.length);
      for (let offset = 0; offset < SEEDS; offset++) {
        const { out } = await s.attention(p, { ...p.options, dropout: { p: 0.2, seed: p.dims.seed, offset } });
        out.forEach((x, n) => (mean[n] += x / SEEDS));
      }
      // Values are below 4 and weights sum to 1: one seed's deviation is below 4 * sqrt(p / (1 - p)) = 2.
      const bound = (5 * 2) / Math.sqrt(SEEDS);
      for (let n = 0; n < mean.length; n++) {
        hold(
          Math.abs(mean[n] - plain.out[n]) <= bound,
          `element ${n}: mean ${mean[n]}, without dropout ${plain.out[n]}`,
        );
      }
      const bias = mean.reduce((sum, x, n) => sum + x - plain.out[n], 0) / mean.length;
      hold(Math.abs(bias) <= bound / 2, `mean deviation ${bias}`);
    }),
  ];
}

function logAddExp(a: number, b: number): number {
  const m = Math.max(a, b);
  return m === -Infinity ? m : m + Math.log(Math.exp(a - m) + Math.exp(b - m));
}

/** Slices along an axis in another order; the order may repeat some. */
function permuted({ shape, values }: Numbers, axis: number, order: readonly number[]): Numbers {
  const inner = shape.slice(axis + 1).reduce((product, size) => product * size, 1);
  const size = shape[axis];
  const outer = values.length / (inner * size || 1);
  const result = new Float64Array(outer * order.length * inner);
  for (let o = 0; o < outer; o++) {
    for (const [to, from] of order.entries()) {
      for (let n = 0; n < inner; n++)
        result[(o * order.length + to) * inner + n] = values[(o * size + from) * inner + n]!;
    }
  }
  return { shape: shape.with(axis, order.length), values: result };
}

/** Rows [from, to) of [B, H, S, D]. */
function rowsOf(numbers: Numbers, from: number, to: number): Numbers {
  return permuted(
    numbers,
    2,
    Array.from({ length: to - from }, (_, n) => from + n),
  );
}

/** [B, H, S, D] to [B, S, H, D], and back. */
function transposed({ shape, values }: Numbers): Numbers {
  const [B, H, S, D] = shape as [number, number, number, number];
  const result = new Float64Array(values.length);
  for (let n = 0; n < values.length; n++) {
    const [b, h, s, d] = [Math.floor(n / (H * S * D)), Math.floor(n / (S * D)) % H, Math.floor(n / D) % S, n % D];
    result[((b * S + s) * H + h) * D + d] = values[n]!;
  }
  return { shape: [B, S, H, D], values: result };
}
