import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { reference, type KernelRow } from "@fa/core";
import { main, numbersPart, replaceParts, supportPart } from "../src/readme.ts";
import { formatResults } from "../src/results.ts";
import { supportTable, type Planned } from "../src/support.ts";
import { madeContest, madeResults } from "./made.ts";

const README = `# A readme

<!-- numbers:begin -->
old numbers
<!-- numbers:end -->

between

<!-- support:begin -->
<!-- support:end -->

the end
`;

describe("the command", () => {
  let root = "";
  const said: string[] = [];
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), "fa-readme-"));
    mkdirSync(join(root, "apps/bench/results"), { recursive: true });
    said.length = 0;
    for (const method of ["log", "error"] as const)
      vi.spyOn(console, method).mockImplementation((text) => said.push(text));
  });
  afterEach(() => {
    vi.restoreAllMocks();
    rmSync(root, { recursive: true });
  });
  const readme = (): string => readFileSync(join(root, "README.md"), "utf8");

  test("writes both parts and leaves the rest; then --check agrees, until something changes", async () => {
    writeFileSync(join(root, "README.md"), README);
    writeFileSync(join(root, "apps/bench/results/a-machine.json"), formatResults(madeResults()));
    expect(await main(["--check"], root)).toBe(1);
    expect(said.join()).toMatch(/stale/);
    expect(readme()).toBe(README);

    expect(await main([], root)).toBe(0);
    expect(readme()).toMatch(/^# A readme\n/);
    expect(readme()).toMatch(/\nbetween\n[^]*\nthe end\n$/);
    expect(readme()).not.toContain("old numbers");
    expect(readme()).toContain("**a machine**, back end wasm (a device)");
    expect(readme()).toMatch(/\| `dropout` \| yes \| yes \| yes \|/);
    expect(await main(["--check"], root)).toBe(0);

    writeFileSync(join(root, "README.md"), readme().replace("| `dropout` | yes", "| `dropout` | no"));
    expect(await main(["--check"], root)).toBe(1);
  });

  test("no README, no markers, a spoilt results file, an unknown option: a clear line and exit code 1", async () => {
    expect(await main([], root)).toBe(1);
    expect(said.at(-1)).toMatch(/README\.md: it must exist/);
    writeFileSync(join(root, "README.md"), README.replace("<!-- support:end -->", ""));
    expect(await main([], root)).toBe(1);
    expect(said.at(-1)).toMatch(/found no <!-- support:end --> after <!-- support:begin -->/);
    writeFileSync(join(root, "README.md"), README);
    writeFileSync(join(root, "apps/bench/results/cut.json"), formatResults(madeResults()).slice(0, 99));
    expect(await main([], root)).toBe(1);
    expect(said.at(-1)).toMatch(/^apps\/bench\/results\/cut\.json: .*whole JSON file/);
    expect(await main(["--chekc"], root)).toBe(1);
    expect(said.at(-1)).toMatch(/got --chekc/);
    expect(readme()).toBe(README);
  });
});

test("parts may hold what looks like a replacement pattern", () => {
  const numbers = "$& and $1";
  expect(replaceParts(README, { numbers })).toContain("\n$& and $1\n");
});

test("numbers come with machine, date, commit and roof, one row a measured case, and the chart if there is one", () => {
  const part = numbersPart(new Map([["a-machine", madeResults()]]), new Set(["a-machine"]));
  expect(part).toMatch(/\*\*a machine\*\*.*linux-x64, node 26\.0\.0, 2026-01-02, commit `0123456789ab`/);
  expect(part).toContain("Roof: 64.0 GFLOP/s, made for a test.");
  expect(part.split("\n").filter((line) => line.startsWith("| attention, B 1, H 8, D 64, float32: S "))).toHaveLength(
    4,
  );
  expect(part).toContain("![GFLOP/s over sequence length](apps/bench/results/a-machine.svg)");
  expect(numbersPart(new Map(), new Set())).toMatch(/No results yet/);
});

test("runs that were stopped, or had a wrong case, are no numbers for a README", () => {
  const { outcomes } = madeResults();
  const stopped = madeResults({ complete: false });
  const failed = madeResults({ outcomes: [{ ...outcomes[0], outcome: "failed", reason: "no memory" } as never] });
  expect(() => numbersPart(new Map([["x", stopped]]), new Set())).toThrow(/x\.json: .*got a run that was stopped/);
  expect(() => numbersPart(new Map([["x", failed]]), new Set())).toThrow(/got sweep\/128\/full failed/);
});

test("a contest is shown beside the peers, failures as failures, and what is required beside what was measured", () => {
  const part = numbersPart(new Map([["a-machine-peers", madeContest()]]), new Set(["a-machine-peers"]));
  expect(part).toMatch(/\*\*a machine, beside other libraries\*\*.* 2026-01-02.*onnxruntime-web 1\.2\.3, wasm/);
  expect(part).toContain("not taking part: jax-js/1 (not installed: npm install @jax-js/jax)");
  expect(part).toContain("| one thread, D 64 | ours | of roof | onnxruntime-web |");
  expect(part).toContain("| S 512, causal | 50.0 | 78 % | 20.0 (2.5x) |");
  expect(part).toContain("| S 4096, full | 50.0 | 78 % | fails: SafeIntOnOverflow |");
  expect(part).toContain("| a made target | at least 80.0 % | 70.0 % | other | missed |");
  expect(part).toContain("(apps/bench/results/a-machine-peers.svg)");
});

test("a peer may fail in the README's numbers, ours may not", () => {
  const { entries } = madeContest();
  const spoilt = entries.map((entry) =>
    entry.contestant === "ours/1" ? { ...entry, outcome: "failed" as const, reason: "no memory" } : entry,
  );
  const part = (file: ReturnType<typeof madeContest>) => numbersPart(new Map([["x", file]]), new Set());
  expect(() => part(madeContest({ entries: spoilt }))).toThrow(/got contest\/512\/64\/full failed/);
  expect(() => part(madeContest({ complete: false }))).toThrow(/got a run that was stopped/);
});

describe("the support table asks the planner", () => {
  const answer = (backend: Planned, capability: RegExp): string => {
    const found = supportTable([backend]).rows.filter((row) => capability.test(row.capability));
    expect(found).toHaveLength(1);
    return found[0].cells[0];
  };

  test("of the reference: everything", async () => {
    const { rows } = supportTable([await reference().open()]);
    expect(rows.length).toBeGreaterThan(15);
    for (const { capability, cells } of rows)
      expect(cells, capability).toEqual([capability === "head dims" ? "1 to 256" : "yes"]);
  });

  test("of a table with gaps: just what its rows say", async () => {
    const { capabilities, kernels } = await reference().open();
    const narrow = (row: KernelRow): KernelRow => ({
      ...row,
      dtypes: ["float32"],
      headDim: { min: 8, max: 128 },
      steps: row.op === "attention" ? ["scale", "visibility", "dropout"] : ["scale", "visibility"],
    });
    const gaps = {
      name: "gaps",
      capabilities,
      kernels: kernels.filter(({ op }) => op !== "linearBackward").map(narrow),
    };
    expect(answer(gaps, /^head dims$/)).toBe("8 to 128");
    expect(answer(gaps, /^float32$/)).toBe("yes");
    expect(answer(gaps, /^float16$/)).toBe("no");
    expect(answer(gaps, /dropout/)).toBe("forward");
    expect(answer(gaps, /softcap/)).toBe("no");
    expect(answer(gaps, /window/)).toBe("yes");
    expect(answer(gaps, /linear/)).toBe("forward");
    expect(answer(gaps, /cast/)).toBe("no");
    const none = { name: "none", capabilities, kernels: [] };
    expect(supportTable([none]).rows.every(({ cells }) => cells[0] === "no")).toBe(true);
    expect(supportPart(supportTable([gaps, none]))).toContain("| forward and backward | gaps | none |");
  });
});
