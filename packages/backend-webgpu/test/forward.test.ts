import type { AttentionProblem, AttentionSizes } from "@fa/core";
import { beforeAll, describe, expect, test } from "vitest";
import { DECODE, DECODE_SUBGROUPS } from "../src/kernels/decode.ts";
import { FORWARD } from "../src/kernels/forward.ts";
import type { WebgpuRow } from "../src/kernels/row.ts";
import { attend, caseOf, distance, expected, numbers, type Case } from "./attend.ts";
import { softwareDevice } from "./passes.ts";

let portable: GPUDevice;
let subgroups: GPUDevice;
beforeAll(async () => {
  [portable, subgroups] = [await softwareDevice(), await softwareDevice(true)];
});
/** One that has what a row needs, and no more. */
const deviceOf = (row: Row): GPUDevice => (row.needs.length > 0 || row === MEDIUM ? subgroups : portable);

type Row = WebgpuRow<AttentionProblem>;
const rowOf = (id: string): Row => FORWARD.find((row) => row.id === id)!;
const [SHORT, LARGE] = [rowOf("forward-short-128"), rowOf("forward-64")];
/** More than 16 KiB of workgroup memory. */
const MEDIUM = rowOf("forward-medium-64");

const [SUBGROUPS_16, SUBGROUPS_8] = DECODE_SUBGROUPS;

const SIZES: AttentionSizes = { B: 2, H: 4, Hkv: 2, Sq: 70, Skv: 90, D: 24, Dv: 40 };
const FEW: AttentionSizes = { ...SIZES, Sq: 3, Skv: 400 };

async function holds(row: Row, wanted: Case, limits = {}, tolerance = 1e-5): Promise<void> {
  const truth = expected(wanted);
  const { out, lse } = await attend(deviceOf(row), row, wanted, limits);
  expect(distance(out, truth.out)).toBeLessThanOrEqual(tolerance);
  expect(distance(lse, truth.lse)).toBeLessThanOrEqual(Math.min(tolerance, 2e-5));
}

describe.each([
  ["forward-short-128", SHORT, SIZES],
  ["forward-short-256", rowOf("forward-short-256"), { ...SIZES, Dv: 200, Hkv: 4 }],
  ["forward-medium-64", MEDIUM, { ...SIZES, Skv: 300 }],
  ["forward-64", LARGE, SIZES],
  ["forward-256", rowOf("forward-256"), { ...SIZES, Dv: 200, Hkv: 4 }],
  ["decode", DECODE, FEW],
  ["decode-subgroups-16", SUBGROUPS_16, { ...FEW, Sq: 2 }],
  ["decode-subgroups-8", SUBGROUPS_8, { ...FEW, Sq: 2 }],
  // Blocks of 4 and 2 rows, and of 4, 4, 4 and 2.
  ["decode-subgroups-16, 6 rows", SUBGROUPS_16, FEW],
  ["decode-subgroups-8, 14 rows", SUBGROUPS_8, { ...FEW, Sq: 7 }],
] as const)("%s", (_, row, sizes) => {
  const { B, H, Sq, Skv } = sizes;
  const slopes = numbers([H], (n) => [0.5, -0.25, 0.1, 0.01][n]);
  const sinks = numbers([H], (n) => [1, -Infinity, 0, 3][n]);
  const bias = numbers([B, 1, Sq, Skv], (n) => (n % 17 === 3 ? -Infinity : Math.sin(n)));
  // Row 1 sees nothing, keys from 64 to 191 nobody.
  const mask = numbers(
    [1, H, Sq, Skv],
    (n) => Number((n * 7) % 5 > 0 && Math.floor(n / Skv) % Sq !== 1 && ((n % Skv) - 64) >>> 0 >= 128),
    "bool",
  );

  test("every step at once", async () => {
    const options = { causal: true, softcap: 3, alibiSlopes: slopes, sinks, dropout: { p: 0.3, seed: 5 } };
    // Nine tensors are more than a stage sees on every device.
    if (row === DECODE || row === SUBGROUPS_16 || row === SUBGROUPS_8) {
      await holds(row, caseOf(sizes, { ...options, bias }));
      await holds(row, caseOf(sizes, { ...options, mask }));
    } else await holds(row, caseOf(sizes, { ...options, bias, mask }));
  });
  test("windows, bshd, forced tiles and a negative scale", async () => {
    const options = { window: [20, 5], layout: "bshd", blockSize: { q: 13, kv: 21 }, scale: -0.3, sinks } as const;
    await holds(row, caseOf(sizes, options));
  });
  test.each([
    ["float16", 2e-3],
    ["bfloat16", 2e-2],
    ["float8e4m3", 2e-2],
  ] as const)("%s, odd head dims", async (dtype, tolerance) => {
    await holds(row, caseOf({ ...sizes, D: 37, Dv: 33 }, { mask }, dtype), {}, tolerance);
  });
  test("windows of buffers where bindings are small", async () => {
    const limits = { maxStorageBufferBindingSize: 20 * 4096 };
    await holds(row, caseOf(sizes, { bias, alibiSlopes: slopes, sinks }), limits);
  });
  test("elements that are not finite reach those who see them", async () => {
    const clean = caseOf(sizes, { causal: true, mask });
    const { q, k, v } = clean.tensors;
    const { D, Dv } = sizes;
    // A query row, two keys and one element of a value; key 60 is not seen by all.
    q.values[(Sq * 2 + 2) * D + 3] = NaN;
    k.values[Skv * D + 7 * D] = Infinity;
    k.values[65 * D + 1] = -Infinity;
    v.values[60 * Dv + 5] = -Infinity;
    v.values[70 * Dv + 5] = NaN;
    const truth = expected(clean);
    const { out, lse } = await attend(deviceOf(row), row, clean);
    expect(distance(out, truth.out)).toBeLessThanOrEqual(3e-6);
    expect(distance(lse, truth.lse)).toBeLessThanOrEqual(3e-6);
    expect(out.some(Number.isNaN) && lse.some(Number.isNaN) && out.some(Number.isFinite)).toBe(true);
  });
});

describe.each([
  // 71 pieces are joined by fours: 18 parts are left, then 5, then 2.
  ["decode", DECODE],
  // 36 pieces, 16 at a time.
  ["decode-subgroups-16", SUBGROUPS_16],
  ["decode-subgroups-8", SUBGROUPS_8],
])("%s over many keys", (_id, row) => {
  const sizes: AttentionSizes = { B: 1, H: 4, Hkv: 2, Sq: 2, Skv: 4500, D: 8, Dv: 6 };

  test("parts are joined over several levels, and the same bits come of it every time", async () => {
    const long = caseOf(sizes, { causal: true, scale: 3 });
    // The max is in a piece of its own for each row.
    long.tensors["k"].values.forEach((x, n, all) => (all[n] = Math.floor(n / sizes.D) % 997 === 500 ? 2 * x : x));
    await holds(row, long);
    const [first, second] = [await attend(deviceOf(row), row, long), await attend(deviceOf(row), row, long)];
    expect(second).toEqual(first);
  });
  test("an element that is not finite reaches its column alone, from any piece", async () => {
    const long = caseOf(sizes);
    const { v } = long.tensors;
    v.values[(Math.floor(sizes.Skv / 2) + 3) * sizes.Dv + 4] = Infinity;
    const { out, lse } = await attend(deviceOf(row), row, long);
    const truth = expected(long);
    expect(distance(out, truth.out)).toBeLessThanOrEqual(1e-5);
    expect(distance(lse, truth.lse)).toBeLessThanOrEqual(1e-5);
    expect([...out].map(Number.isNaN)).toEqual(Array.from(out, (_, n) => n < 4 * sizes.Dv && n % sizes.Dv === 4));
  });
  test("only pieces of keys that are seen are read", () => {
    const splits = (window: [number, number]) => row.splits!(caseOf(sizes, { window }).problem, row.tile);
    const least = row === DECODE ? 64 : 128;
    expect(splits([-1, -1])).toBe(Math.ceil(sizes.Skv / least));
    expect(splits([255, 0])).toBe(Math.ceil(257 / least));
  });
});

test.each([
  ["forward-short-128", SHORT],
  ["forward-medium-64", MEDIUM],
  ["forward-64", LARGE],
])("%s: scores that rise from tile to tile are rescaled", async (_, row) => {
  const ramp = caseOf({ B: 1, H: 1, Hkv: 1, Sq: 64, Skv: 400, D: 8, Dv: 8 }, { scale: 1 });
  ramp.tensors["k"].values.forEach((x, n, all) => (all[n] = (x * n) / 300));
  // Scores reach 60, whose last bit is 4e-6.
  await holds(row, ramp, {}, 2e-5);
});

test("short problems: small products count beside a large one", async () => {
  // q.k is 2^24 and 63 times 1 for the first key, 2^24 for the other. A running sum in float32 would lose every 1, and 0.5 be left.
  const wanted = caseOf({ B: 1, H: 1, Hkv: 1, Sq: 1, Skv: 2, D: 64, Dv: 1 }, { scale: 1 / 64 });
  const { q, k, v } = wanted.tensors;
  q.values.fill(1).fill(4096, 0, 1);
  k.values.fill(0).fill(1, 0, 64).fill(4096, 0, 1).fill(4096, 64, 65);
  v.values.set([1, 0]);
  const { out } = await attend(portable, SHORT, wanted);
  expect(expected(wanted).out[0]).toBeCloseTo(0.728, 3);
  expect(out[0]).toBeGreaterThan(0.6);
});
