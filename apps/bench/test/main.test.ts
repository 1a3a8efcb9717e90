import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { createAttention, FaError, reference } from "@fa/core";
import { tiledAttention } from "@fa/core/reference";
import { main } from "../src/main.node.ts";
import { parseResults, type RunFile } from "../src/results.ts";
import { expectOneLine, openReference, openWith, recorder } from "./made.ts";

const folder = mkdtempSync(join(tmpdir(), "fa-bench-"));
afterAll(() => rmSync(folder, { recursive: true }));
const file = (name: string): string => join(folder, name);
const results = (name: string): RunFile => {
  const read = parseResults(readFileSync(file(name), "utf8"), name);
  if (read.kind !== "run") throw new Error(`${name} is a ${read.kind}`);
  return read;
};

test("--quick on the reference: everything verified, timed, printed, written and drawn", async () => {
  const terminal = recorder();
  const [json, plot] = [file("quick.json"), file("quick.svg")];
  const argv = ["--quick", "--json", json, "--plot", plot, "--machine", "a test's"];
  expect(await main(argv, { terminal, open: openReference })).toBe(0);

  const { machine, backend, candidates, roof, complete, outcomes, date } = results("quick.json");
  expect(machine).toMatchObject({ name: "a test's", runtime: `node ${process.versions.node}` });
  expect(machine.cores).toBeGreaterThan(0);
  expect(backend).toEqual({ name: "reference", device: "pure TypeScript, float64" });
  expect(candidates).toMatchObject([{ name: "reference", taken: true }]);
  expect(roof.gflops).toBeGreaterThan(0.01);
  expect(Date.now() - Date.parse(date)).toBeLessThan(600_000);
  expect(complete).toBe(true);
  expect(outcomes.map(({ id }) => id)).toEqual([
    "tutorial/plain",
    "tutorial/dropout",
    "module/module/forward",
    "module/module/fwd+bwd",
    "sweep/128/full",
    "sweep/128/causal",
    "sweep/256/full",
    "sweep/256/causal",
  ]);
  for (const outcome of outcomes) {
    expect(outcome, outcome.id).toMatchObject({ outcome: "measured", verification: { ok: true } });
  }
  expect(outcomes[2]).toMatchObject({ verification: { against: expect.stringMatching(/^PyTorch/) as string } });

  const printed = terminal.printed.join("\n");
  expect(printed).toMatch(/^reference +taken/m);
  expect(printed).toMatch(/^roof +[\d.]+ GFLOP\/s, scalar float64/m);
  expect(printed).toMatch(/S 256, causal +[\d.]+ ± [\d.]+ +[\d.]+ +[\d.]+ +\d+ %/);
  expect(readFileSync(plot, "utf8")).toContain("back end reference");
  expect(terminal.complaints).toEqual([]);
});

describe("a wrong answer", () => {
  const faults: Record<string, Parameters<typeof openWith>[0]> = {
    "one element off": (...args) => {
      const numbers = tiledAttention(...args);
      numbers.out[numbers.out.length - 1] += 1e-3;
      return numbers;
    },
    "NaN in lse": (...args) => {
      const numbers = tiledAttention(...args);
      numbers.lse[0] = NaN;
      return numbers;
    },
    "the mean square alone": (...args) => {
      const numbers = tiledAttention(...args);
      numbers.out.forEach((x, n) => (numbers.out[n] = x * (1 + 1.2e-5)));
      return numbers;
    },
  };

  test.each(Object.entries(faults))("%s: shown as WRONG, never timed, exit code 1", async (name, attention) => {
    const calls = new Map<string, number>();
    const open = openWith((problem, ...rest) => {
      const key = JSON.stringify([problem.B, problem.Sq, problem.program]);
      calls.set(key, (calls.get(key) ?? 0) + 1);
      return attention(problem, ...rest);
    });
    const terminal = recorder();
    const json = file(`${name}.json`);
    expect(await main(["--quick", "--sizes", "64", "--json", json], { terminal, open })).toBe(1);

    const { outcomes } = results(`${name}.json`);
    const wrong = outcomes.filter(({ outcome }) => outcome === "wrong");
    expect(wrong.map(({ id }) => id)).toEqual(
      expect.arrayContaining(["tutorial/plain", "tutorial/dropout", "sweep/64/full", "sweep/64/causal"]),
    );
    for (const outcome of wrong) expect(outcome).not.toHaveProperty("timing");
    expect(terminal.printed.join("\n")).toMatch(/S 64, causal +WRONG: \w+ (errs [\d.e+]+ times what it may|holds NaN)/);
    // One call each for the check; timing would have taken many more.
    for (const [key, count] of calls) if (!key.includes("[2,17")) expect(count, key).toBe(1);
  });
});

test("a back end that fails in a case: its reason is shown, the other cases run, exit code 1", async () => {
  const open = openWith((problem, ...rest) => {
    if (problem.Sq === 128) throw new FaError("FA_OUT_OF_MEMORY", "faulty: no memory left. Use less.");
    return tiledAttention(problem, ...rest);
  });
  const terminal = recorder();
  expect(await main(["--quick"], { terminal, open })).toBe(1);
  const printed = terminal.printed.join("\n");
  expect(printed).toMatch(/S 128, full +failed: faulty: no memory left/);
  expect(printed).toMatch(/S 256, full +[\d.]+ ± /);
});

test("a back end that cannot be opened again costs one case, and no other", async () => {
  let opened = 0;
  const open = async () => {
    if (++opened === 3) throw new FaError("FA_DEVICE_LOST", "faulty: the device went away. Open another.");
    return openReference();
  };
  const terminal = recorder();
  expect(await main(["--quick", "--sizes", "64"], { terminal, open })).toBe(1);
  const printed = terminal.printed.join("\n");
  expect(printed).toMatch(/dropout 0\.1 +failed: faulty: the device went away/);
  expect(printed).toMatch(/S 64, causal +[\d.]+ ± /);
});

test("sizes that no memory holds fail with the reason", async () => {
  const terminal = recorder();
  const argv = ["--quick", "--sizes", "100000", "--heads", "1000000000", "--budget", "1e15"];
  expect(await main(argv, { terminal, open: openReference })).toBe(1);
  expect(terminal.printed.join("\n")).toMatch(/S 100000, causal +failed: host memory: /);
});

test("every case has a back end of its own, disposed when it is done", async () => {
  let opened = 0;
  let disposed = 0;
  const open = async () => {
    const provider = reference();
    const fa = await createAttention({
      backends: [
        {
          ...provider,
          async open() {
            opened++;
            const backend = await provider.open();
            const dispose = backend.dispose.bind(backend);
            backend.dispose = () => {
              disposed++;
              return dispose();
            };
            return backend;
          },
        },
      ],
    });
    return fa;
  };
  expect(await main(["--quick", "--sizes", "64"], { terminal: recorder(), open })).toBe(0);
  // And once before and once after them, to see what the machine can do.
  expect(opened).toBe(2 + 6);
  expect(disposed).toBe(opened);
});

test("cases that would take too much of the budget are skipped, and say so", async () => {
  const terminal = recorder();
  const argv = ["--quick", "--budget", "2", "--sizes", "64,4096"];
  expect(await main(argv, { terminal, open: openReference })).toBe(0);
  expect(terminal.printed.join("\n")).toMatch(
    /S 4096, full +skipped: needs \d+ s, over a quarter of the budget of 2 s/,
  );
});

test("float16 is held to the rule of half types", async () => {
  const json = file("half.json");
  const argv = ["--quick", "--sizes", "64", "--dtype", "float16", "--heads", "2", "--dim", "24", "--json", json];
  expect(await main(argv, { terminal: recorder(), open: openReference })).toBe(0);
  const [, , , , full] = results("half.json").outcomes;
  expect(full).toMatchObject({ id: "sweep/64/full", dtype: "float16", H: 2, D: 24, outcome: "measured" });
  if (full?.outcome === "measured") expect(full.verification.maxError).toBeGreaterThan(1e-5);
});

test("stopped before its end: what was measured is printed and saved, exit code as the signal says", async () => {
  const stop = new AbortController();
  const terminal = recorder();
  const print = terminal.print.bind(terminal);
  terminal.print = (text) => {
    print(text);
    if (text.startsWith("module/module/forward ")) stop.abort(130);
  };
  const json = file("stopped.json");
  const surroundings = { terminal, signal: stop.signal, open: openReference };
  expect(await main(["--quick", "--json", json], surroundings)).toBe(130);
  expect(terminal.printed.at(-1)).toBe("\nstopped");
  expect(terminal.printed.join("\n")).toMatch(/block 64 +[\d.]+ ± /);
  const { complete, outcomes } = results("stopped.json");
  expect(complete).toBe(false);
  expect(outcomes.map(({ id }) => id)).toEqual(["tutorial/plain", "tutorial/dropout", "module/module/forward"]);
});

describe("bad arguments are a clear line before any work", () => {
  const busy = file("folder.json");
  test.each([
    [["--backend", "wsam"], /'wsam' is invalid\. Did you mean wasm\? There are cuda, webgpu, wasm, reference/],
    [["--backend", "tpu9000"], /There are cuda, webgpu, wasm, reference/],
    [["--jsno", "x"], /unknown option '--jsno'\n\(Did you mean --json\?\)/],
    [["--json", join(folder, "none", "x.json")], /'--json <file>'.*There is no folder/],
    [["--json", folder], /It is a folder/],
    [["--plot", file("x.png")], /must end in \.svg/],
    [["--sizes", "128,big"], /whole numbers from 1/],
    [["--sizes", "0"], /whole numbers from 1/],
    [["--sizes", "1e9"], /whole numbers from 1/],
    [["--dim", "257"], /attention\(q\): head dim D must be at most 256; got D=257/],
    [["--heads", "0"], /whole number from 1/],
    [["--dtype", "float61"], /Did you mean float16\?|Did you mean float32\?/],
    [["--budget", "soon"], /a number of seconds above 0/],
    [["rum"], /unknown command 'rum'\n\(Did you mean run\?\)/],
  ])("%j", async (argv, message) => {
    let opened = false;
    const terminal = recorder();
    const open = () => {
      opened = true;
      return openReference();
    };
    expect(await main(argv, { terminal, open })).toBe(1);
    expectOneLine(terminal.complaints, message);
    expect(opened).toBe(false);
    expect(existsSync(busy)).toBe(false);
  });
});

test("a results file is not made, nor an old one touched, by arguments that are refused", async () => {
  writeFileSync(file("old.json"), "old");
  await main(["--json", file("old.json"), "--plot", file("new.svg"), "--dim", "999"], { terminal: recorder() });
  expect(readFileSync(file("old.json"), "utf8")).toBe("old");
  expect(existsSync(file("new.svg"))).toBe(false);
});

test("no back end at all: every reason in a line, exit code 1", async () => {
  const terminal = recorder();
  const nothing = {
    name: "none",
    probe: async () => ({ ok: false, reason: "no such device" }),
    open: () => reference().open(),
  };
  const open = () => createAttention({ backends: [nothing] });
  expect(await main(["--quick"], { terminal, open })).toBe(1);
  expectOneLine(terminal.complaints, /^fa-bench: .*none \(no such device\)/);
});

test("--help and --version print and do nothing else", async () => {
  for (const [option, text] of [
    ["--help", /Exit codes: 0 all right/],
    ["--version", /^\d+\.\d+\.\d+/],
  ] as const) {
    const terminal = recorder();
    expect(await main([option], { terminal })).toBe(0);
    expect(terminal.printed.join("\n")).toMatch(text);
    expect(terminal.complaints).toEqual([]);
  }
});
