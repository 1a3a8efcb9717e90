import { expect, test } from "vitest";
import { moduleCases } from "../src/cases.ts";
import { goldenModule, partOf } from "../src/golden.ts";
import { readGolden } from "../src/machine.node.ts";

const files = await readGolden();

test("the big case: inputs by formula, answers as sampled rows and sums", () => {
  const golden = goldenModule(files, "big");
  expect(golden).toMatchObject({ B: 8, S: 512, E: 512, options: { embedDim: 512, numHeads: 8 } });
  expect([...golden.inputs.keys()].toSorted()).toEqual(
    ["x", "dout", "Wqkv.weight", "Wqkv.bias", "out_proj.weight", "out_proj.bias"].toSorted(),
  );
  const rows = golden.answers.find(({ tensor, part }) => tensor === "out" && typeof part !== "string")!;
  expect(rows.part).toContain(7 * 512 + 511);
  expect(rows.values).toHaveLength(rows.part.length * 512);
  expect(golden.by).toMatch(/^PyTorch .*MultiheadAttention, float64$/);
});

test("every answer is of something that forward or backward gives", () => {
  for (const name of ["module", "big"]) {
    const tensors = new Set(goldenModule(files, name).answers.map(({ tensor }) => tensor));
    expect([...tensors].toSorted()).toEqual(
      ["out", "dx", "grad.Wqkv.weight", "grad.Wqkv.bias", "grad.out_proj.weight", "grad.out_proj.bias"].toSorted(),
    );
  }
});

test("inputs that do not add up as they were generated are refused", () => {
  const json = new TextDecoder().decode(files.json).replace(/"sum": -4756\.84375/, '"sum": -4756');
  expect(() => goldenModule({ ...files, json: new TextEncoder().encode(json) }, "big")).toThrow(/x must add up/);
});

test("rows and sums are taken out of a tensor of [rows, width]", () => {
  const tensor = Float64Array.of(1, 2, 3, 4, 5, 6);
  const answer = { tensor: "out", values: new Float64Array(3) };
  expect(partOf({ ...answer, part: [2, 0] }, tensor, 2)).toEqual(Float64Array.of(5, 6, 1, 2));
  expect(partOf({ ...answer, part: "sums" }, tensor, 2)).toEqual(Float64Array.of(3, 7, 11));
  expect(partOf({ ...answer, part: "all" }, tensor, 2)).toBe(tensor);
});

test("the module's arithmetic is two projections and attention, thrice as much with the backward's", () => {
  const [forward, both] = moduleCases(goldenModule(files, "big")).map(({ facts }) => facts.flops);
  const projections = 2 * 8 * 512 * 512 * (1536 + 512);
  const attention = 8 * 8 * 512 * 512 * 256;
  expect(forward).toBe(projections + attention);
  expect(both).toBe(3 * projections + 3.5 * attention);
});
