import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { dropoutMask, keepScale, keepThreshold, philox4x32, DROPOUT_ROUNDS } from "../src/philox.ts";

const word = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const hex = (words: Uint32Array): string => [...words].map((w) => w.toString(16).padStart(8, "0")).join(" ");

/** Philox4x32 written down from the paper with BigInt: each round takes two full 64-bit products. */
function philoxByBigInt(counter: readonly number[], key: readonly number[], rounds: number): number[] {
  let [c0, c1, c2, c3] = counter.map(BigInt);
  let [k0, k1] = key.map(BigInt);
  const low = (x: bigint): bigint => x & 0xffffffffn;
  for (let round = 0; round < rounds; round++) {
    const product0 = 0xd2511f53n * c0;
    const product1 = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(product1 >> 32n) ^ c1 ^ k0, low(product1), (product0 >> 32n) ^ c3 ^ k1, low(product0)];
    [k0, k1] = [low(k0 + 0x9e3779b9n), low(k1 + 0xbb67ae85n)];
  }
  return [c0, c1, c2, c3].map(Number);
}

describe("philox4x32", () => {
  test.each([
    ["7 rounds of zeros", [0, 0, 0, 0], [0, 0], 7, "5f6fb709 0d893f64 4f121f81 4f730a48"],
    ["10 rounds of zeros", [0, 0, 0, 0], [0, 0], 10, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"],
    // Random123's kat_vectors
    [
      "10 rounds of ones",
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      10,
      "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ],
    [
      "10 rounds of digits of pi",
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      10,
      "d16cfe09 94fdcceb 5001e420 24126ea1",
    ],
  ] as const)("known answer: %s", (_, counter, key, rounds, answer) => {
    expect(hex(philox4x32(counter, key, rounds))).toBe(answer);
  });

  test("dropout uses 7 rounds, and they are the default", () => {
    expect(DROPOUT_ROUNDS).toBe(7);
    expect(philox4x32([1, 2, 3, 4], [5, 6])).toEqual(philox4x32([1, 2, 3, 4], [5, 6], 7));
  });

  test("equals a BigInt implementation for any counter, key and number of rounds", () => {
    const counters = fc.tuple(word, word, word, word);
    fc.assert(
      fc.property(counters, fc.tuple(word, word), fc.integer({ min: 0, max: 10 }), (counter, key, rounds) => {
        expect([...philox4x32(counter, key, rounds)]).toEqual(philoxByBigInt(counter, key, rounds));
      }),
      { numRuns: 1000 },
    );
  });

  test("one round gives the high and low words of the products, at the numbers where a carry can be lost", () => {
    const edges = [0, 1, 0xffff, 0x10000, 0x10001, 0x7fffffff, 0x80000000, 0xffff0000, 0xfffeffff, 0xffffffff];
    for (const c0 of edges) {
      for (const c2 of edges) {
        expect([...philox4x32([c0, 0, c2, 0], [0, 0], 1)]).toEqual(philoxByBigInt([c0, 0, c2, 0], [0, 0], 1));
      }
    }
  });

  test("writes into the array that it is given", () => {
    const out = new Uint32Array(4);
    expect(philox4x32([0, 0, 0, 0], [0, 0], 7, out)).toBe(out);
    expect(hex(out)).toBe("5f6fb709 0d893f64 4f121f81 4f730a48");
  });
});

describe("dropout", () => {
  const key = { p: 0.3, seedLow: 42, seedHigh: 7, offset: 3 };

  test("element (i, j) of head b * H + h takes the draw that section 5 of the contract says", () => {
    fc.assert(
      fc.property(
        fc.nat(5000),
        fc.nat(5000),
        fc.nat(300),
        word,
        word,
        word,
        (i, j, head, seedLow, seedHigh, offset) => {
          const words = philoxByBigInt([Math.floor(j / 8), i, head, offset], [seedLow, seedHigh], 7);
          const half = words[(j % 8) >> 1];
          const draw = j % 2 === 0 ? half % 65536 : Math.floor(half / 65536);
          for (const p of [0.1, 0.5, draw / 65536, (draw + 1) / 65536]) {
            const keep = dropoutMask({ p, seedLow, seedHigh, offset }, head);
            expect(keep(i, j)).toBe(draw >= Math.round(p * 65536));
          }
        },
      ),
    );
  });

  test("the order in which elements are asked for changes nothing", () => {
    const cells = Array.from({ length: 40 * 40 }, (_, n) => [Math.floor(n / 40), n % 40] as const);
    const inOrder = dropoutMask(key, 5);
    const expected = new Map(cells.map(([i, j]) => [i * 40 + j, inOrder(i, j)]));
    const backwards = dropoutMask(key, 5);
    const byColumns = dropoutMask(key, 5);
    for (const [i, j] of cells.toReversed()) expect(backwards(i, j)).toBe(expected.get(i * 40 + j));
    for (const [j, i] of cells) expect(byColumns(i, j)).toBe(expected.get(i * 40 + j));
  });

  test.each([0.001, 0.1, 0.5, 0.9, 0.999])("p = %d keeps 1 - p of the elements, within 5 sigma", (p) => {
    const keep = dropoutMask({ ...key, p }, 0);
    const [rows, keys] = [256, 512];
    let kept = 0;
    for (let i = 0; i < rows; i++) for (let j = 0; j < keys; j++) if (keep(i, j)) kept++;
    const n = rows * keys;
    expect(Math.abs(kept - n * (1 - p))).toBeLessThan(5 * Math.sqrt(n * p * (1 - p)));
  });

  test("heads, batches, seeds, offsets and rows draw apart", () => {
    const draw = (change: object, head = 0, row = 0): string => {
      const keep = dropoutMask({ ...key, p: 0.5, ...change }, head);
      return Array.from({ length: 64 }, (_, j) => (keep(row, j) ? 1 : 0)).join("");
    };
    const draws = [
      draw({}),
      draw({}, 1),
      draw({}, 0, 1),
      draw({ seedLow: 43 }),
      draw({ seedHigh: 8 }),
      draw({ offset: 4 }),
    ];
    expect(new Set(draws).size).toBe(draws.length);
  });

  test("p = 0 keeps all, p = 1 none; what is kept is divided by 1 - p", () => {
    const all = dropoutMask({ ...key, p: 0 }, 0);
    const none = dropoutMask({ ...key, p: 1 }, 0);
    for (let j = 0; j < 1000; j++) expect([all(0, j), none(0, j)]).toEqual([true, false]);
    expect([keepThreshold(0), keepThreshold(0.5), keepThreshold(1)]).toEqual([0, 32768, 65536]);
    expect([keepScale(0), keepScale(0.75), keepScale(1)]).toEqual([1, 4, 0]);
  });
});
