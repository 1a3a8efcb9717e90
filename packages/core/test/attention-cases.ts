/** Random small attention problems with every option, and attention written down a second time, from the contract alone. */
import * as fc from "fast-check";
import { dropoutMask } from "../src/philox.ts";
import { attentionProblem, type AttentionOptionsOf, type AttentionProblem, type TensorSpec } from "../src/problem.ts";
import type { AttentionData, AttentionNumbers } from "../src/reference/index.ts";

/** A problem as a caller gives it: sizes and options; the numbers follow from the seed. */
export interface Case {
  readonly B: number;
  readonly H: number;
  readonly Hkv: number;
  readonly Sq: number;
  readonly Skv: number;
  readonly D: number;
  readonly Dv: number;
  readonly rank: 3 | 4;
  readonly layout: "bhsd" | "bshd";
  readonly scale?: number | undefined;
  readonly softcap?: number | undefined;
  readonly causal?: boolean | "bottom-right" | "top-left" | undefined;
  readonly window?: readonly [number, number] | undefined;
  readonly dropout?: { readonly p: number; readonly seed: number; readonly offset: number } | undefined;
  /** Along which of [B, H, Sq, Skv] it has its full size. */
  readonly bias?: readonly boolean[] | undefined;
  readonly mask?: readonly boolean[] | undefined;
  readonly alibiSlopes?: "[H]" | "[B, H]" | undefined;
  readonly sinks: boolean;
  readonly seed: number;
  /** Tile sizes to compute it with. */
  readonly tile: { readonly q: number; readonly kv: number };
}

export interface Built {
  readonly problem: AttentionProblem;
  readonly data: AttentionData;
  readonly dout: Float64Array;
  /** Shapes of q, k, v and of the operands. */
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  readonly options: AttentionOptionsOf<TensorSpec>;
}

const maybe = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => fc.option(value, { nil: undefined });
const axes = fc.tuple(fc.boolean(), fc.boolean(), fc.boolean(), fc.boolean());
const between = (min: number, max: number): fc.Arbitrary<number> => fc.integer({ min, max });

export const cases: fc.Arbitrary<Case> = fc
  .record({
    B: between(0, 2),
    Hkv: between(1, 2),
    group: between(1, 2),
    Sq: between(0, 6),
    Skv: between(0, 7),
    D: between(1, 3),
    Dv: between(1, 3),
    rank: fc.constantFrom(3 as const, 4 as const, 4 as const),
    layout: fc.constantFrom("bhsd" as const, "bshd" as const),
    scale: maybe(fc.double({ min: -2, max: 2, noNaN: true })),
    softcap: fc.constantFrom(undefined, 0, 1.5, 20),
    causal: fc.constantFrom(undefined, false, true, "bottom-right" as const, "top-left" as const),
    window: maybe(fc.tuple(between(-1, 4), between(-1, 4))),
    dropout: maybe(fc.record({ p: fc.constantFrom(0, 0.3, 0.5, 1), seed: fc.nat(), offset: fc.nat() })),
    bias: maybe(axes),
    mask: maybe(axes),
    alibiSlopes: fc.constantFrom(undefined, "[H]" as const, "[B, H]" as const),
    sinks: fc.boolean(),
    seed: fc.nat(),
    tile: fc.record({ q: between(1, 8), kv: between(1, 9) }),
  })
  .map(({ group, Hkv, ...rest }) => (rest.rank === 3 ? { ...rest, H: 1, Hkv: 1 } : { ...rest, H: Hkv * group, Hkv }));

/** Numbers in [-1, 1), by a generator of two lines, different for each name. */
export function noise(length: number, seed: number, name: string): Float64Array {
  let state = seed >>> 0;
  for (let n = 0; n < name.length; n++) state = (Math.imul(state, 31) + name.charCodeAt(n)) >>> 0;
  return Float64Array.from({ length }, () => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x6d2b79f5) >>> 0;
    return ((state ^ (state >>> 13)) >>> 0) / 2 ** 31 - 1;
  });
}

const product = (shape: readonly number[]): number => shape.reduce((size, axis) => size * axis, 1);

export function build(c: Case): Built {
  const { B, H, Hkv, Sq, Skv, D, Dv, rank, layout, seed } = c;
  const heads = (count: number, rows: number, dim: number): number[] =>
    rank === 3 ? [B, rows, dim] : layout === "bhsd" ? [B, count, rows, dim] : [B, rows, count, dim];
  const broadcast = (full: readonly boolean[]): number[] =>
    [B, H, Sq, Skv].map((size, axis) => (full[axis] ? size : 1));
  const shapes: Record<string, number[]> = {
    q: heads(H, Sq, D),
    k: heads(Hkv, Skv, D),
    v: heads(Hkv, Skv, Dv),
    dout: heads(H, Sq, Dv),
    ...(c.bias && { bias: broadcast(c.bias) }),
    ...(c.mask && { mask: broadcast(c.mask) }),
    ...(c.alibiSlopes && { alibiSlopes: c.alibiSlopes === "[H]" ? [H] : [B, H] }),
    ...(c.sinks && { sinks: [H] }),
  };
  const spec = (name: string): TensorSpec => ({ shape: shapes[name], dtype: name === "mask" ? "bool" : "float32" });
  const operands = ["bias", "mask", "alibiSlopes", "sinks"].filter((name) => name in shapes);
  const { scale, softcap, causal, window, dropout } = c;
  const options: AttentionOptionsOf<TensorSpec> = {
    scale,
    softcap,
    causal,
    window,
    dropout,
    layout,
    ...Object.fromEntries(operands.map((name) => [name, spec(name)])),
  };
  const numbers = (name: string, from = name): Float64Array => noise(product(shapes[name]), seed, from);
  return {
    problem: attentionProblem({ q: spec("q"), k: spec("k"), v: spec("v") }, options),
    data: {
      q: numbers("q").map((x) => 2 * x),
      k: numbers("k").map((x) => 2 * x),
      v: numbers("v"),
      bias: shapes.bias && numbers("bias"),
      mask: shapes.mask && Uint8Array.from(numbers("mask"), (x) => (x < 0.3 ? 1 : 0)),
      alibiSlopes: shapes.alibiSlopes && numbers("alibiSlopes"),
      sinks: shapes.sinks && numbers("sinks"),
    },
    dout: numbers("dout"),
    shapes,
    options,
  };
}

/** Where row i of head h begins in [B, heads, rows, dim] of the case's layout. */
export function rowOf(c: Case, heads: number, rows: number, dim: number, b: number, h: number, i: number): number {
  return c.layout === "bhsd" || c.rank === 3 ? ((b * heads + h) * rows + i) * dim : ((b * rows + i) * heads + h) * dim;
}

/** The element of a tensor that broadcasts over [B, H, Sq, Skv]. */
const broadcastAt = (c: Case, full: readonly boolean[], ...position: readonly number[]): number =>
  [c.B, c.H, c.Sq, c.Skv].reduce((at, size, axis) => (full[axis] ? at * size + position[axis] : at), 0);

/** Whether row i of (b, h) sees key j: sections 3 and 4 of the contract, word by word. */
export function sees(c: Case, { data }: Built, b: number, h: number, i: number, j: number): boolean {
  const aligned = i + c.Skv - c.Sq;
  const [left, right] = c.window ?? [-1, -1];
  if ((c.causal === true || c.causal === "bottom-right") && j > aligned) return false;
  if (c.causal === "top-left" && j > i) return false;
  if (left !== -1 && j < aligned - left) return false;
  if (right !== -1 && j > aligned + right) return false;
  return !c.mask || data.mask![broadcastAt(c, c.mask, b, h, i, j)] !== 0;
}

/** Attention by the contract's words alone, sharing nothing with the reference but Philox. */
export function definition(c: Case, built: Built): AttentionNumbers {
  const { B, H, Hkv, Sq, Skv, D, Dv } = c;
  const { data } = built;
  const out = new Float64Array(B * H * Sq * Dv);
  const lse = new Float64Array(B * H * Sq);
  const every = <T>(count: number, f: (n: number) => T): T[] => Array.from({ length: count }, (_, n) => f(n));
  for (const b of every(B, (n) => n)) {
    for (const h of every(H, (n) => n)) {
      const hkv = Math.floor(h / (H / Hkv));
      for (const i of every(Sq, (n) => n)) {
        const query = rowOf(c, H, Sq, D, b, h, i);
        const scores = every(Skv, (j) => {
          if (!sees(c, built, b, h, i, j)) return -Infinity;
          const key = rowOf(c, Hkv, Skv, D, b, hkv, j);
          let s = (c.scale ?? D ** -0.5) * every(D, (d) => data.q[query + d] * data.k[key + d]).reduce((x, y) => x + y);
          if (c.softcap) s = c.softcap * Math.tanh(s / c.softcap);
          if (c.bias) s += data.bias![broadcastAt(c, c.bias, b, h, i, j)];
          const slope = c.alibiSlopes && data.alibiSlopes![c.alibiSlopes === "[H]" ? h : b * H + h];
          return slope === undefined ? s : s - slope * Math.abs(i + Skv - Sq - j);
        });
        const logits = c.sinks ? [...scores, data.sinks![h]] : scores;
        const denominator = logits.map(Math.exp).reduce((x, y) => x + y, 0);
        lse[(b * H + h) * Sq + i] = Math.log(denominator);
        if (!scores.some((s) => s > -Infinity)) continue;
        const p = c.dropout?.p ?? 0;
        const key = { p, seedLow: c.dropout?.seed ?? 0, seedHigh: 0, offset: c.dropout?.offset ?? 0 };
        const keep = dropoutMask(key, b * H + h);
        const at = rowOf(c, H, Sq, Dv, b, h, i);
        scores.forEach((s, j) => {
          if (!keep(i, j)) return;
          const value = rowOf(c, Hkv, Skv, Dv, b, hkv, j);
          const weight = Math.exp(s) / denominator / (1 - p);
          for (let d = 0; d < Dv; d++) out[at + d] += weight * data.v[value + d];
        });
      }
    }
  }
  return { out, lse };
}

/** Indices at which two arrays differ by more than rounding; the same infinity or NaN on both sides is no difference. */
export function differences(a: ArrayLike<number>, b: ArrayLike<number>, tolerance = 1e-10): string[] {
  if (a.length !== b.length) return [`${a.length} elements and ${b.length}`];
  return Array.from({ length: a.length }, (_, n) => n)
    .filter((n) => !(Object.is(a[n], b[n]) || Math.abs(a[n] - b[n]) <= tolerance * (1 + Math.abs(b[n]))))
    .map((n) => `[${n}] ${a[n]} and ${b[n]}`);
}
