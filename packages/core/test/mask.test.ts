import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  bandOf,
  broadcast,
  inBand,
  keyRange,
  offsetIn,
  rowRange,
  tileInBand,
  tileVisibility,
  visiblePairs,
  EVERYTHING,
  type Band,
  type Causal,
  type VisibleRange,
} from "../src/mask.ts";

const size = fc.integer({ min: 0, max: 9 });
const side = fc.integer({ min: -1, max: 6 });
const causal = fc.constantFrom<Causal>(false, "bottom-right", "top-left");
/** Any band at all, such as one whose sides cross. */
const band: fc.Arbitrary<Band> = fc.record({
  lo: fc.oneof(fc.integer({ min: -12, max: 12 }), fc.constant(-Infinity)),
  hi: fc.oneof(fc.integer({ min: -12, max: 12 }), fc.constant(Infinity)),
});
/** [begin, end) inside [0, 9]; may be empty. */
const block = fc.tuple(size, size).map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const);

const integers = (begin: number, end: number): number[] =>
  Array.from({ length: Math.max(0, end - begin) }, (_, n) => begin + n);

/** What a range says: the numbers that some, and that every, one of the others goes with. */
function listed({ begin, fullBegin, fullEnd, end }: VisibleRange): {
  some: number[];
  every: number[];
  nested: boolean;
} {
  return {
    some: integers(begin, end),
    every: integers(fullBegin, fullEnd),
    nested: begin <= fullBegin && fullBegin <= fullEnd && fullEnd <= end,
  };
}

describe("bandOf: row i sees key j as section 3 of the contract says", () => {
  test("causal in both alignments and window together, for any sizes", () => {
    fc.assert(
      fc.property(size, size, causal, side, side, (Sq, Skv, alignment, left, right) => {
        const found = bandOf(Sq, Skv, alignment, [left, right]);
        for (let i = 0; i < Sq; i++) {
          const diagonal = i + Skv - Sq;
          for (let j = 0; j < Skv; j++) {
            const inCausal = alignment === false || j <= (alignment === "top-left" ? i : diagonal);
            const inWindow = (left === -1 || j >= diagonal - left) && (right === -1 || j <= diagonal + right);
            expect(inBand(found, i, j)).toBe(inCausal && inWindow);
          }
        }
      }),
    );
  });

  test("neither causal nor window: everything", () => {
    expect(bandOf(3, 5, false, [-1, -1])).toEqual(EVERYTHING);
  });

  test("causal with fewer queries than keys: the last row sees all; with more, the first rows see none", () => {
    const shown = (Sq: number, Skv: number, alignment: Causal): string[] =>
      integers(0, Sq).map((i) =>
        integers(0, Skv)
          .map((j) => (inBand(bandOf(Sq, Skv, alignment, [-1, -1]), i, j) ? "x" : "."))
          .join(""),
      );
    expect(shown(2, 4, "bottom-right")).toEqual(["xxx.", "xxxx"]);
    expect(shown(4, 2, "bottom-right")).toEqual(["..", "..", "x.", "xx"]);
    expect(shown(2, 4, "top-left")).toEqual(["x...", "xx.."]);
    expect(shown(4, 2, "top-left")).toEqual(["x.", "xx", "xx", "xx"]);
  });
});

describe("ranges and tiles agree with looking at every pair", () => {
  test("keyRange: the keys that some row of the block sees, and those that every row sees", () => {
    fc.assert(
      fc.property(band, block, size, (b, [i0, i1], keys) => {
        const rows = integers(i0, i1);
        const some = integers(0, keys).filter((j) => rows.some((i) => inBand(b, i, j)));
        const every = some.filter((j) => rows.every((i) => inBand(b, i, j)));
        expect(listed(keyRange(b, i0, i1, keys))).toEqual({ some, every, nested: true });
      }),
      { numRuns: 1000 },
    );
  });

  test("rowRange: the rows that see some key of the block, and those that see every key", () => {
    fc.assert(
      fc.property(band, block, size, (b, [j0, j1], rows) => {
        const keys = integers(j0, j1);
        const some = integers(0, rows).filter((i) => keys.some((j) => inBand(b, i, j)));
        const every = some.filter((i) => keys.every((j) => inBand(b, i, j)));
        expect(listed(rowRange(b, j0, j1, rows))).toEqual({ some, every, nested: true });
      }),
      { numRuns: 1000 },
    );
  });

  test("tileInBand: empty, partial or full", () => {
    fc.assert(
      fc.property(band, block, block, (b, [i0, i1], [j0, j1]) => {
        const pairs = integers(i0, i1).flatMap((i) => integers(j0, j1).map((j) => inBand(b, i, j)));
        const expected = !pairs.includes(true) ? "empty" : pairs.includes(false) ? "partial" : "full";
        expect(tileInBand(b, i0, i1, j0, j1)).toBe(expected);
      }),
      { numRuns: 1000 },
    );
  });

  test("tileVisibility: band and mask together, the mask broadcast along any dimensions", () => {
    const [B, H, Sq, Skv] = [2, 2, 4, 5];
    const shape = fc.tuple(
      fc.constantFrom(1, B),
      fc.constantFrom(1, H),
      fc.constantFrom(1, Sq),
      fc.constantFrom(1, Skv),
    );
    const bytes = fc.uint8Array({ minLength: B * H * Sq * Skv, maxLength: B * H * Sq * Skv, max: 2 });
    const within = (limit: number) =>
      fc.tuple(fc.nat(limit), fc.nat(limit)).map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const);
    fc.assert(
      fc.property(
        band,
        shape,
        bytes,
        fc.nat(1),
        fc.nat(1),
        within(Sq),
        within(Skv),
        (bnd, dims, data, b, h, rows, keys) => {
          const mask = broadcast(dims);
          const at = (...position: number[]): number =>
            position.reduce((offset, p, axis) => offset * dims[axis] + (dims[axis] === 1 ? 0 : p), 0);
          const pairs = integers(...rows).flatMap((i) =>
            integers(...keys).map((j) => inBand(bnd, i, j) && data[at(b, h, i, j)] !== 0),
          );
          const expected = !pairs.includes(true) ? "empty" : pairs.includes(false) ? "partial" : "full";
          expect(tileVisibility({ band: bnd, mask }, data, [b, h], rows, keys)).toBe(expected);
        },
      ),
      { numRuns: 1000 },
    );
  });

  test("tileVisibility without a mask is the band's", () => {
    expect(tileVisibility({ band: { lo: -Infinity, hi: 0 } }, undefined, [0, 0], [0, 4], [0, 4])).toBe("partial");
    expect(tileVisibility({ band: { lo: -Infinity, hi: 0 } }, undefined, [0, 0], [4, 8], [0, 4])).toBe("full");
    expect(tileVisibility({ band: { lo: -Infinity, hi: 0 } }, undefined, [0, 0], [0, 4], [4, 8])).toBe("empty");
  });

  test("visiblePairs counts the pairs of the band", () => {
    fc.assert(
      fc.property(band, size, size, (b, Sq, Skv) => {
        const pairs = integers(0, Sq).flatMap((i) => integers(0, Skv).filter((j) => inBand(b, i, j)));
        expect(visiblePairs(b, Sq, Skv)).toBe(pairs.length);
      }),
    );
  });
});

test("offsetIn: a dimension of size 1 repeats, the others are row-major", () => {
  expect(broadcast([2, 3, 4, 5]).strides).toEqual([60, 20, 5, 1]);
  expect(broadcast([1, 3, 1, 5]).strides).toEqual([0, 5, 0, 1]);
  expect(offsetIn(broadcast([2, 1, 4, 1]), 1, 2, 3, 4)).toBe(7);
});
