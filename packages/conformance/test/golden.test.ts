import { createAttention } from "@fa/core";
import { describe, expect, it } from "vitest";
import { CASES, checkPhiloxAnswers, conformanceChecks, nullBackend, runCheck, Subject } from "../src/index.ts";

describe("the golden data", () => {
  it("holds core's Philox to PyTorch's known answers and dropout masks", async () => {
    await checkPhiloxAnswers();
  });
});

describe("the suite", () => {
  it("gives every check a name of its own", async () => {
    const names = (await conformanceChecks()).map(({ name }) => name);
    expect(names.filter((name, n) => names.indexOf(name) !== n)).toEqual([]);
    expect(CASES.length).toBeGreaterThan(100);
  });
  it("fails a back end that leaves results as zeros in every capability that computes something", async () => {
    const fa = await createAttention({ backends: [nullBackend()] });
    const failed = new Set<string>();
    const all = new Set<string>();
    for (const check of await conformanceChecks({ runs: 1 })) {
      all.add(check.capability);
      if (failed.has(check.capability)) continue;
      const { status } = await runCheck(new Subject(fa), check);
      if (status === "failed") failed.add(check.capability);
    }
    // A result of zeros is at least the same in every run.
    expect(new Set([...all].filter((capability) => !failed.has(capability)))).toEqual(new Set(["determinism"]));
  });
});
