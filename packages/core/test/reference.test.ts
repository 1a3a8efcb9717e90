import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { attentionProblem } from "../src/problem.ts";
import {
  naiveAttention,
  naiveAttentionBackward,
  tiledAttention,
  tiledAttentionBackward,
  type AttentionData,
  type GradientNumbers,
  type TileEvent,
} from "../src/reference/index.ts";
import { build, cases, definition, differences, rowOf, sees, type Built, type Case } from "./attention-cases.ts";

const ALGORITHMS = ["naive", "tiled"] as const;
type Algorithm = (typeof ALGORITHMS)[number];

const forward = (algorithm: Algorithm, { tile }: Case, { problem, data }: Built) =>
  algorithm === "naive" ? naiveAttention(problem, data) : tiledAttention(problem, data, tile);

function backward(algorithm: Algorithm, c: Case, built: Built): GradientNumbers {
  const { problem, data, dout } = built;
  if (algorithm === "naive") return naiveAttentionBackward(problem, data, dout);
  return tiledAttentionBackward(problem, { ...data, ...forward("tiled", c, built), dout }, c.tile);
}

const gradientNames = ["dq", "dk", "dv", "dbias", "dsinks"] as const;

const plain: Case = {
  B: 1,
  H: 2,
  Hkv: 1,
  Sq: 4,
  Skv: 5,
  D: 3,
  Dv: 2,
  rank: 4,
  layout: "bhsd",
  sinks: false,
  seed: 1,
  tile: { q: 2, kv: 2 },
};

/** Every option at once; in some rows something is hidden, in all something seen. */
const everything: Case = {
  ...plain,
  B: 2,
  H: 4,
  Hkv: 2,
  scale: 0.7,
  softcap: 2,
  bias: [true, true, true, true],
  alibiSlopes: "[B, H]",
  causal: true,
  window: [3, -1],
  mask: [true, false, true, true],
  sinks: true,
  dropout: { p: 0.3, seed: 5, offset: 2 },
};

describe("forward", () => {
  test.each(ALGORITHMS)(
    "%s equals the contract's words on random problems, whatever the options and tiles",
    (algorithm) => {
      fc.assert(
        fc.property(cases, (c) => {
          const built = build(c);
          const { out, lse } = forward(algorithm, c, built);
          const expected = definition(c, built);
          expect(differences(out, expected.out)).toEqual([]);
          expect(differences(lse, expected.lse)).toEqual([]);
        }),
        { numRuns: 500 },
      );
    },
  );

  test("tiled gives the same bits every time", () => {
    const built = build(everything);
    expect(forward("tiled", everything, built)).toEqual(forward("tiled", everything, built));
  });

  test.each(ALGORITHMS)("%s by hand: two keys with scores 0 and ln 3 weigh 1/4 and 3/4", (algorithm) => {
    const c: Case = { ...plain, H: 1, Sq: 1, Skv: 2, D: 1, Dv: 1, scale: 1 };
    const built = build(c);
    const data = { ...built.data, q: Float64Array.of(1), k: Float64Array.of(0, Math.log(3)), v: Float64Array.of(8, 4) };
    const { out, lse } = forward(algorithm, c, { ...built, data });
    expect([out[0], lse[0]]).toEqual([expect.closeTo(5, 12), expect.closeTo(Math.log(4), 12)]);
  });
});

describe("backward", () => {
  test("tiled equals naive on random problems, whatever the options and tiles", () => {
    fc.assert(
      fc.property(cases, (c) => {
        const built = build(c);
        const [tiled, naive] = [backward("tiled", c, built), backward("naive", c, built)];
        for (const name of gradientNames) {
          expect(tiled[name] === undefined).toBe(naive[name] === undefined);
          expect({ name, off: differences(tiled[name] ?? [], naive[name] ?? []) }).toEqual({ name, off: [] });
        }
      }),
      { numRuns: 500 },
    );
  });

  test("there is a gradient of bias and of sinks exactly when they were given", () => {
    const given = backward("tiled", everything, build(everything));
    expect(Object.values(given).every((gradient) => gradient instanceof Float64Array)).toBe(true);
    expect(backward("tiled", plain, build(plain))).toMatchObject({ dbias: undefined, dsinks: undefined });
  });

  const broadcasts = [
    [false, false, false, false],
    [true, false, true, false],
    [false, true, false, true],
  ];
  test.each<[string, Case]>([
    ["no options", plain],
    ["scale", { ...plain, scale: -0.8 }],
    ["softcap", { ...plain, softcap: 1.2 }],
    ["causal, bottom-right", { ...plain, causal: true }],
    ["causal, top-left", { ...plain, causal: "top-left" }],
    ["causal with rows that see nothing", { ...plain, Sq: 5, Skv: 3, causal: true }],
    ["a window", { ...plain, window: [1, 1] }],
    ["a mask", { ...plain, mask: [true, true, true, true] }],
    ["ALiBi", { ...plain, alibiSlopes: "[H]" }],
    ["a full bias", { ...plain, bias: [true, true, true, true] }],
    ...broadcasts.map((bias): [string, Case] => [
      `a bias of full size along ${bias.join(", ")}`,
      { ...plain, B: 2, bias },
    ]),
    ["sinks", { ...plain, sinks: true }],
    ["dropout", { ...plain, dropout: { p: 0.4, seed: 3, offset: 1 } }],
    ["dropout of everything", { ...plain, dropout: { p: 1, seed: 3, offset: 1 } }],
    ["grouped heads", { ...plain, H: 4, Hkv: 2 }],
    ["rank 3", { ...plain, H: 1, rank: 3 }],
    ["layout bshd", { ...plain, B: 2, layout: "bshd" }],
    ["everything at once", everything],
    ["everything at once, bshd", { ...everything, layout: "bshd" }],
  ])("gradients are the slopes of sum(dout * out), by central differences: %s", (_, c) => {
    const built = build(c);
    const loss = (data: AttentionData): number =>
      naiveAttention(built.problem, data).out.reduce((sum, x, n) => sum + x * built.dout[n], 0);
    const step = 1e-5;
    for (const algorithm of ALGORITHMS) {
      const gradients = backward(algorithm, c, built);
      for (const name of gradientNames) {
        const gradient = gradients[name];
        if (!gradient) continue;
        const input = name.slice(1) as "q" | "k" | "v" | "bias" | "sinks";
        const slopes = gradient.map((_unused, n) => {
          const nudged = (by: number): number =>
            loss({ ...built.data, [input]: built.data[input]!.with(n, built.data[input]![n] + by) });
          return (nudged(step) - nudged(-step)) / (2 * step);
        });
        expect({ algorithm, name, off: differences(gradient, slopes, 1e-8) }).toEqual({ algorithm, name, off: [] });
      }
    }
  });
});

describe("edges of section 4 of the contract", () => {
  const each = (c: Case): { b: number; h: number; i: number; row: number }[] =>
    Array.from({ length: c.B * c.H * c.Sq }, (_, row) => ({
      row,
      i: row % c.Sq,
      h: Math.floor(row / c.Sq) % c.H,
      b: Math.floor(row / c.Sq / c.H),
    }));
  const keysOf = (c: Case): number[] => Array.from({ length: c.Skv }, (_, j) => j);
  const withData = (built: Built, data: Partial<AttentionData>): Built => ({
    ...built,
    data: { ...built.data, ...data },
  });
  /** The numbers with row `at` of `length` replaced. */
  const poisoned = (x: Float64Array, at: number, length: number, poison: number): Float64Array =>
    x.map((value, n) => (n >= at && n < at + length ? poison : value));

  test.each(ALGORITHMS)(
    "%s: a row that sees no key gives out 0, lse -Infinity (its sink with sinks), dq 0",
    (algorithm) => {
      fc.assert(
        fc.property(cases, (c) => {
          const built = build(c);
          const { out, lse } = forward(algorithm, c, built);
          const { dq } = backward(algorithm, c, built);
          for (const { b, h, i, row } of each(c)) {
            if (keysOf(c).some((j) => sees(c, built, b, h, i, j))) continue;
            expect(lse[row]).toBe(c.sinks ? built.data.sinks![h] : -Infinity);
            const at = rowOf(c, c.H, c.Sq, c.Dv, b, h, i);
            expect(Array.from(out.slice(at, at + c.Dv))).toEqual(Array(c.Dv).fill(0));
            const query = rowOf(c, c.H, c.Sq, c.D, b, h, i);
            expect(Array.from(dq.slice(query, query + c.D))).toEqual(Array(c.D).fill(0));
          }
        }),
      );
    },
  );

  test.each<[string, Partial<Case>]>([
    ["Sq = 0", { Sq: 0 }],
    ["Skv = 0", { Skv: 0 }],
    ["B = 0", { B: 0 }],
    ["all of them 0", { B: 0, Sq: 0, Skv: 0 }],
  ])("%s: empty or zero results, never a crash", (_, sizes) => {
    for (const c of [
      { ...plain, ...sizes },
      { ...everything, ...sizes },
    ]) {
      const built = build(c);
      for (const algorithm of ALGORITHMS) {
        const { out, lse } = forward(algorithm, c, built);
        expect(out).toEqual(new Float64Array(c.B * c.H * c.Sq * c.Dv));
        const expected = each(c).map(({ h }) => (c.sinks ? built.data.sinks![h] : -Infinity));
        expect([...lse]).toEqual(expected);
        const gradients = backward(algorithm, c, built);
        for (const name of gradientNames) expect(gradients[name]?.every((x) => x === 0) ?? true).toBe(true);
      }
    }
  });

  test.each(ALGORITHMS)("%s: NaN or Inf in a key or value reaches exactly the rows that see it", (algorithm) => {
    const places = fc.record({
      key: fc.nat(),
      name: fc.constantFrom("k", "v"),
      poison: fc.constantFrom(NaN, Infinity),
    });
    fc.assert(
      fc.property(cases, places, (c, { key, name, poison }) => {
        fc.pre(c.B > 0 && c.Skv > 0);
        // A key of Inf may give a score of -Infinity, which hides it; a value of Inf is always seen.
        fc.pre(name === "v" || Number.isNaN(poison));
        const built = build(c);
        const [b, j, hkv] = [key % c.B, key % c.Skv, key % c.Hkv];
        const dim = name === "k" ? c.D : c.Dv;
        const at = rowOf(c, c.Hkv, c.Skv, dim, b, hkv, j);
        const clean = forward(algorithm, c, built);
        const after = forward(algorithm, c, withData(built, { [name]: poisoned(built.data[name], at, dim, poison) }));
        for (const { row, i, h, ...where } of each(c)) {
          const seen = where.b === b && Math.floor(h / (c.H / c.Hkv)) === hkv && sees(c, built, b, h, i, j);
          const from = rowOf(c, c.H, c.Sq, c.Dv, where.b, h, i);
          const rows = [clean, after].map(({ out }) => Array.from(out.slice(from, from + c.Dv)));
          expect(rows[1]).toEqual(seen ? Array(c.Dv).fill(NaN) : rows[0]);
          if (!seen || name === "v") expect(after.lse[row]).toBe(clean.lse[row]);
        }
      }),
      { numRuns: 300 },
    );
  });

  test.each(ALGORITHMS)(
    "%s: what no row sees may be NaN and changes no bit, forward or backward; its gradient is 0",
    (algorithm) => {
      fc.assert(
        fc.property(cases, fc.constantFrom(NaN, Infinity, -Infinity), (c, poison) => {
          const built = build(c);
          let { k, v } = built.data;
          for (const n of Array(c.B * c.Hkv * c.Skv).keys()) {
            const [j, hkv, b] = [n % c.Skv, Math.floor(n / c.Skv) % c.Hkv, Math.floor(n / c.Skv / c.Hkv)];
            const readers = each(c).filter((row) => row.b === b && Math.floor(row.h / (c.H / c.Hkv)) === hkv);
            if (readers.some(({ h, i }) => sees(c, built, b, h, i, j))) continue;
            k = poisoned(k, rowOf(c, c.Hkv, c.Skv, c.D, b, hkv, j), c.D, poison);
            v = poisoned(v, rowOf(c, c.Hkv, c.Skv, c.Dv, b, hkv, j), c.Dv, poison);
          }
          const dirty = withData(built, { k, v });
          expect(forward(algorithm, c, dirty)).toEqual(forward(algorithm, c, built));
          expect(backward(algorithm, c, dirty)).toEqual(backward(algorithm, c, built));
        }),
        { numRuns: 300 },
      );
    },
  );

  test.each(ALGORITHMS)("%s: a bias that is NaN where the key is hidden changes nothing", (algorithm) => {
    const c: Case = { ...everything, B: 1, H: 1, Hkv: 1, mask: undefined };
    const built = build(c);
    const bias = built.data.bias!.map((x, n) => (sees(c, built, 0, 0, Math.floor(n / c.Skv), n % c.Skv) ? x : NaN));
    expect(bias.some(Number.isNaN)).toBe(true);
    const dirty = withData(built, { bias });
    expect(forward(algorithm, c, dirty)).toEqual(forward(algorithm, c, built));
    expect(backward(algorithm, c, dirty)).toEqual(backward(algorithm, c, built));
  });

  test.each(ALGORITHMS)("%s: logits of any finite size give the weights of their differences", (algorithm) => {
    const c: Case = { ...plain, H: 1, Sq: 3, Skv: 3, D: 1, Dv: 1, scale: 1, tile: { q: 2, kv: 1 } };
    const data = {
      q: Float64Array.of(2 ** 500, -(2 ** 500), 1),
      k: Float64Array.of(2 ** 500, 2 ** 500, -(2 ** 500)),
      v: Float64Array.of(2, 4, 9),
    };
    const built = withData(build(c), data);
    const { out, lse } = forward(algorithm, c, built);
    // Scores 2^1000, 2^1000, -(2^1000); then the opposite; then 2^500, 2^500, -(2^500).
    expect([...out]).toEqual([3, 9, 3]);
    expect([...lse]).toEqual([2 ** 1000, 2 ** 1000, 2 ** 500]);
  });

  test("gradients at huge logits: naive takes any; tiled is as exact as lse, from which it takes the probabilities", () => {
    const c: Case = { ...plain, H: 1, Sq: 3, Skv: 3, D: 1, Dv: 1, scale: 1, tile: { q: 2, kv: 1 } };
    const dv = (algorithm: Algorithm, x: number): Float64Array => {
      const data = { q: Float64Array.of(x, -x, 1), k: Float64Array.of(x, x, -x), v: Float64Array.of(2, 4, 9) };
      return backward(algorithm, c, { ...withData(build(c), data), dout: Float64Array.of(1, 10, 100) }).dv;
    };
    expect(dv("naive", 2 ** 500)).toEqual(Float64Array.of(50.5, 50.5, 10));
    expect(differences(dv("tiled", 2 ** 10), [50.5, 50.5, 10], 2 ** 20 * Number.EPSILON)).toEqual([]);
  });

  test.each(ALGORITHMS)("%s: very negative logits are not an empty row", (algorithm) => {
    const c: Case = { ...plain, H: 1, Sq: 1, Skv: 2, D: 1, Dv: 1, scale: 1 };
    const data = { q: Float64Array.of(1), k: Float64Array.of(-5000, -5000), v: Float64Array.of(2, 4) };
    const { out, lse } = forward(algorithm, c, withData(build(c), data));
    expect([out[0], lse[0]]).toEqual([3, -5000 + Math.log(2)]);
  });

  test("a sink far above the scores takes all the weight; one far below takes none", () => {
    const built = build({ ...plain, sinks: true });
    const without = forward("tiled", plain, build(plain));
    const sunk = (sink: number) =>
      tiledAttention(built.problem, { ...built.data, sinks: Float64Array.of(sink, sink) }, plain.tile);
    expect(sunk(1e4).out.every((x) => x === 0)).toBe(true);
    expect(sunk(1e4).lse.every((x) => x === 1e4)).toBe(true);
    expect(differences(sunk(-1e4).out, without.out)).toEqual([]);
    expect(differences(sunk(-1e4).lse, without.lse)).toEqual([]);
  });
});

describe("what tiled shows to those who watch", () => {
  const keep = (event: TileEvent): TileEvent => structuredClone(event);

  function watched(c: Case) {
    const built = build(c);
    const events: TileEvent[] = [];
    const numbers = tiledAttention(built.problem, built.data, c.tile, (event) => events.push(keep(event)));
    return { built, events, ...numbers };
  }

  test("after the last tile of a row, out = acc / l and lse = m + ln l", () => {
    fc.assert(
      fc.property(cases, (c) => {
        const { events, out, lse } = watched(c);
        const last = new Map(events.map((event) => [`${event.b} ${event.h} ${event.rows[0]}`, event]));
        for (const { b, h, rows, m, l, acc } of last.values()) {
          for (let r = 0; r < rows[1] - rows[0]; r++) {
            const i = rows[0] + r;
            expect(lse[(b * c.H + h) * c.Sq + i]).toBe(l[r] === 0 ? -Infinity : m[r] + Math.log(l[r]));
            const at = rowOf(c, c.H, c.Sq, c.Dv, b, h, i);
            for (let d = 0; d < c.Dv; d++) expect(out[at + d]).toBe(l[r] === 0 ? 0 : acc[r * c.Dv + d] / l[r]);
          }
        }
      }),
    );
  });

  test("each tile that holds a visible pair comes once, in order, marked as it is; empty ones never come", () => {
    fc.assert(
      fc.property(cases, (c) => {
        const { built, events } = watched(c);
        const expected: object[] = [];
        for (let b = 0; b < c.B; b++) {
          for (let h = 0; h < c.H; h++) {
            for (let i0 = 0; i0 < c.Sq; i0 += c.tile.q) {
              for (let j0 = 0; j0 < c.Skv; j0 += c.tile.kv) {
                const rows = [i0, Math.min(i0 + c.tile.q, c.Sq)];
                const keys = [j0, Math.min(j0 + c.tile.kv, c.Skv)];
                const seen: boolean[] = [];
                for (let i = rows[0]; i < rows[1]; i++)
                  for (let j = keys[0]; j < keys[1]; j++) seen.push(sees(c, built, b, h, i, j));
                const visibility = seen.includes(false) ? "partial" : "full";
                if (seen.includes(true)) expected.push({ b, h, rows, keys, visibility });
              }
            }
          }
        }
        expect(events.map(({ b, h, rows, keys, visibility }) => ({ b, h, rows, keys, visibility }))).toEqual(expected);
      }),
    );
  });

  test("S holds the scores, -Infinity where hidden; P = exp(S - m); m and l are the running max and sum", () => {
    fc.assert(
      fc.property(cases, (c) => {
        const { built, events } = watched(c);
        const running = new Map<string, number[]>();
        for (const { b, h, rows, keys, S, P, m, l, acc } of events) {
          const Bc = keys[1] - keys[0];
          const Br = rows[1] - rows[0];
          expect([S, P, m, l, acc].map(({ length }) => length)).toEqual([Br * Bc, Br * Bc, Br, Br, Br * c.Dv]);
          for (let r = 0; r < Br; r++) {
            const i = rows[0] + r;
            const row = `${b} ${h} ${i}`;
            if (!running.has(row)) running.set(row, c.sinks ? [built.data.sinks![h]] : []);
            const scores = Array.from(S.slice(r * Bc, (r + 1) * Bc));
            expect(scores.map((s) => s > -Infinity)).toEqual(
              scores.map((_unused, column) => sees(c, built, b, h, i, keys[0] + column)),
            );
            const seen = [...running.get(row)!, ...scores];
            running.set(row, seen);
            // Not toBe: which of 0 and -0 is the larger is nobody's business.
            expect(m[r] === Math.max(...seen)).toBe(true);
            const base = m[r] === -Infinity ? 0 : m[r];
            expect(differences([l[r]], [seen.reduce((sum, s) => sum + Math.exp(s - base), 0)])).toEqual([]);
            expect(Array.from(P.slice(r * Bc, (r + 1) * Bc))).toEqual(scores.map((s) => Math.exp(s - base)));
          }
        }
      }),
    );
  });
});

describe("naive with rounding", () => {
  test("rounds what an unfused implementation would store: scores, probabilities and results", () => {
    const problem = attentionProblem({
      q: { shape: [1, 1, 1, 1], dtype: "float32" },
      k: { shape: [1, 1, 2, 1], dtype: "float32" },
      v: { shape: [1, 1, 2, 1], dtype: "float32" },
    });
    const data = { q: Float64Array.of(1), k: Float64Array.of(0.4, 2.6), v: Float64Array.of(10, 20) };
    // Scores 0.4 and 2.6 become 0 and 3; probabilities 0.047 and 0.953 become 0 and 1.
    const { out, lse } = naiveAttention(problem, data, Math.round);
    expect([out[0], lse[0]]).toEqual([20, 3 + Math.log(1 + Math.exp(-3))]);
  });
});
