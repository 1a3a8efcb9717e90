// The commands beside the main job, as `main` is asked for them.

import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium as playwright } from "playwright";
import { afterAll, describe, expect, test } from "vitest";
import { findChromium } from "../../../tools/test-needs.ts";
import { parseCommandLine } from "../src/commands.node.ts";
import { main } from "../src/main.node.ts";
import { formatResults, parseResults, VERSION, type RunFile } from "../src/results.ts";
import { timeLeft } from "../src/terminal.node.ts";
import { expectOneLine, madeContest, madeGpuContest, madeResults, recorder } from "./made.ts";

const folder = mkdtempSync(join(tmpdir(), "fa-commands-"));
afterAll(() => rmSync(folder, { recursive: true }));
const file = (name: string): string => join(folder, name);
const written = (name: string, text: string): string => {
  writeFileSync(file(name), text);
  return file(name);
};
const results = (name: string): RunFile => parseResults(readFileSync(file(name), "utf8"), name) as RunFile;

async function fa(...argv: readonly string[]) {
  const terminal = recorder();
  const code = await main(argv, { terminal });
  return { code, out: terminal.printed.join("\n"), complaints: terminal.complaints };
}

describe("run", () => {
  const small = ["--sizes", "24", "--heads", "4", "--heads-kv", "2", "--dim", "16", "--budget", "3"];

  test("every option and pass is verified, measured and saved, a file for each of several back ends", async () => {
    const options =
      "--causal --window 9,2 --softcap 20 --alibi --bias --mask --sinks --dropout 0.2 --dim-v 8 --batch 2".split(" ");
    const more = ["--pass", "forward,backward,decode", "--dtype", "float32,float16"];
    const [json, plot] = [file("all.json"), file("all.svg")];
    const backends = ["--backend", "reference,wasm"];
    const { code, out, complaints } = await fa(
      "run",
      ...small,
      ...options,
      ...more,
      ...backends,
      "--json",
      json,
      "--plot",
      plot,
    );
    expect({ code, complaints }).toEqual({ code: 0, complaints: [] });
    expect(out).toMatch(/backward, B 2, H 4, Hkv 2, D 16, Dv 8, float16, causal, window 9 2, softcap 20, ALiBi/);
    expect(existsSync(json)).toBe(false);
    for (const name of ["reference", "wasm"]) {
      const { backend, bandwidth, outcomes } = results(`all-${name}.json`);
      expect(backend.name).toBe(name);
      expect(bandwidth!.gbs).toBeGreaterThan(0.1);
      expect(outcomes).toHaveLength(6);
      for (const outcome of outcomes) {
        expect(outcome, outcome.id).toMatchObject({
          outcome: "measured",
          kernel: expect.stringMatching(/^(tiled-|forward|backward|decode)/) as string,
          verification: { ok: true },
          timing: { timer: "wall" },
        });
      }
      expect(readFileSync(file(`all-${name}.svg`), "utf8")).toContain("decode, float16, causal");
    }
  });

  test("decoding over a large cache reads copies of it in turn; its memory is that of one", async () => {
    const json = file("decode.json");
    const argv = [
      "--backend",
      "wasm",
      "--pass",
      "decode",
      "--sizes",
      "16384",
      "--heads",
      "4",
      "--budget",
      "3",
      "--json",
      json,
    ];
    expect((await fa("run", ...argv)).code).toBe(0);
    const [outcome] = results("decode.json").outcomes;
    if (outcome.outcome !== "measured") throw new Error(outcome.outcome);
    // 33.6 MB of keys and values.
    expect(outcome.timing.inputSets).toBe(8);
    expect(outcome.peakBytes).toBeLessThan(2 * outcome.bytes);
  });

  test("a backward pass that takes too long to check is skipped, and says so", async () => {
    const { code, out } = await fa(
      "run",
      "--backend",
      "wasm",
      "--pass",
      "backward",
      "--sizes",
      "64,8192",
      "--budget",
      "20",
    );
    expect(code).toBe(0);
    expect(out).toMatch(/S 64 +[\d.]+ ± /);
    expect(out).toMatch(/S 8192 +skipped: needs \d+ s, over a quarter of the budget of 20 s/);
  });

  test("of several back ends one that is not there says why, the others run, exit code 1", async () => {
    const { code, out, complaints } = await fa("run", ...small, "--backend", "cuda,reference");
    expect(code).toBe(1);
    expectOneLine(complaints, /^fa-bench: .*cuda \(.+\)/);
    expect(out).toMatch(/S 24 +[\d.]+ ± /);
  });
});

describe("explain", () => {
  test("who is taken, the plan, and why every other back end and row is not", async () => {
    const json = file("explained.json");
    const { code, out } = await fa(
      "explain",
      "--causal",
      "--keys",
      "64",
      "--backend",
      "wasm,reference",
      "--json",
      json,
    );
    expect(code).toBe(0);
    expect(out).toMatch(
      /^attention B=1 H=8 Hkv=8 Sq=64 Skv=64 D=64 Dv=64 float32 bhsd\nscores +scale\(0\.125\), visibility\(j <= i\)/,
    );
    expect(out).toMatch(/^wasm +taken: the first that works\n +on WebAssembly/m);
    expect(out).toMatch(/^ +decode-\w+ +refuses: takes at most \d+ query rows a key head, not 64$/m);
    expect(out).toMatch(/^ +forward-\w+ +runs$/m);
    expect(out).toMatch(/^reference +not taken: wasm comes before it and works$/m);
    expect(out).toMatch(/^plan +of wasm\nkernel +forward-\w+\ntile +\d+ x \d+$/m);
    const kept = JSON.parse(readFileSync(json, "utf8")) as Record<string, unknown>;
    expect(kept).toMatchObject({ schema: "fa-bench", version: VERSION, kind: "explanation", measured: false });
    expect(kept).toHaveProperty("candidates.1.name", "reference");
  });

  test("--measure takes the fastest, shows the numbers, and remembers them in the store", async () => {
    const store = file("store.json");
    const argv = [
      "explain",
      "--measure",
      "--keys",
      "48",
      "--heads",
      "2",
      "--backend",
      "reference,wasm",
      "--store",
      store,
    ];
    const first = await fa(...argv);
    expect(first.out).toMatch(/^reference +not taken: (about )?[\d.]+ ms/m);
    expect(first.out).toMatch(/^wasm +taken: the fastest: [\d.]+ ms/m);
    expect(Object.keys(JSON.parse(readFileSync(store, "utf8")) as object)).toHaveLength(1);
    expect((await fa(...argv)).out).toMatch(/^wasm +taken: the fastest: [\d.]+ ms, measured \d{4}-/m);
  });

  test("a store that holds something else is left alone, and said to be", async () => {
    const store = written("notes.txt", "my notes");
    const { code, out } = await fa("explain", "--measure", "--keys", "40", "--backend", "reference", "--store", store);
    expect(code).toBe(0);
    expect(out).toMatch(/the store did not take it: .*notes\.txt holds something else/);
    expect(readFileSync(store, "utf8")).toBe("my notes");
  });

  test("what cannot be measured before there are tensors is refused", async () => {
    for (const flag of ["--bias", "--sinks"]) {
      const { code, complaints } = await fa("explain", "--measure", flag);
      expect(code).toBe(1);
      expectOneLine(complaints, new RegExp(`^fa-bench: explain\\(--measure\\): .*; got ${flag}\\.`));
    }
    expectOneLine((await fa("explain", "--measure", "--pass", "backward")).complaints, /got --pass backward/);
  });

  test("no back end that works: exit code 1", async () => {
    const { code, out } = await fa("explain", "--backend", "cuda");
    expect(code).toBe(1);
    expect(out).toMatch(/^cuda +not taken: \S/m);
  });
});

describe("roofline", () => {
  test("places the results of files, and draws them", async () => {
    const names = [
      written("run.json", formatResults(madeResults())),
      written("gpu.json", formatResults(madeGpuContest())),
    ];
    const [json, plot] = [file("placed.json"), file("roof.svg")];
    const { code, out } = await fa("roofline", ...names, "--json", json, "--plot", plot);
    expect(code).toBe(0);
    expect(out).toMatch(/S 128, full +31\.9 +32\.0 +64\.0 +50 % +arithmetic/);
    // 4.2 flop a byte at 2000 GB/s.
    expect(out).toMatch(/decode, Skv 8192.* +memory$/m);
    expect(readFileSync(file("roof-run.svg"), "utf8")).toContain("10.0 GB/s");
    expect(readFileSync(file("roof-gpu.svg"), "utf8")).toContain("640000 GFLOP/s: matrix units");
    expect(JSON.parse(readFileSync(json, "utf8"))).toMatchObject({
      kind: "roofline",
      files: [{}, { points: expect.any(Array) }],
    });
  });
});

describe("report", () => {
  test("one page with every case, charts, machines, and nothing from elsewhere", async () => {
    const names = [
      written("run.json", formatResults(madeResults({ machine: { ...madeResults().machine, name: "<b>&'\"" } }))),
      written("wasm.json", formatResults(madeContest({ complete: false }))),
      written("gpu.json", formatResults(madeGpuContest())),
    ];
    const out = file("page.html");
    expect((await fa("report", ...names, "--out", out)).code).toBe(0);
    const page = readFileSync(out, "utf8");
    expect(page).toContain("<h2>&lt;b&gt;&amp;&#39;&quot;</h2>");
    expect(page).not.toContain("<b>");
    // The run, the contest on the processor, and the one on a GPU with four pairs of dtype and head dim; each with its roofline.
    expect(page.match(/<svg /g)).toHaveLength(1 + 1 + 4 + 3);
    expect(page).toContain("failed: SafeIntOnOverflow: Integer overflow");
    expect(page).toContain("stopped before its end");
    for (const fact of ["0123456789ab", "driver 1.2.3", "wall clock; the device is waited for", "2026-01-02"]) {
      expect(page).toContain(fact);
    }
    expect(page.replaceAll(/xmlns(:\w+)?="[^"]*"/g, "")).not.toMatch(/https?:|src=|@import|url\((?!#)/);
    expect(page.length).toBeLessThan(400_000);
  });
});

const chromium = findChromium();

test.skipIf(!chromium.found)("a report's tables are sorted by their headings, and it asks for nothing", async () => {
  const out = file("sorted.html");
  await fa("report", written("run.json", formatResults(madeResults())), "--out", out);
  const browser = await playwright.launch({ executablePath: chromium.path!, args: ["--no-sandbox"] });
  try {
    const page = await browser.newPage();
    const asked: string[] = [];
    page.on("request", (request) => void asked.push(request.url()));
    page.on("pageerror", (error) => void asked.push(error.message));
    await page.goto(pathToFileURL(out).href);
    const cases = () => page.locator("tbody tr td:first-child").allInnerTexts();
    const [down, up] = [
      ["S 4096, full", "S 4096, causal", "S 128, full", "S 128, causal"],
      ["S 128, causal", "S 128, full", "S 4096, causal", "S 4096, full"],
    ];
    const heading = page.getByRole("button", { name: "ms", exact: true });
    await heading.click();
    expect(await cases()).toEqual(up);
    // By keyboard too.
    await heading.press("Enter");
    expect(await cases()).toEqual(down);
    expect(await page.locator("th[aria-sort=descending]").innerText()).toContain("ms");
    expect(asked).toEqual([pathToFileURL(out).href]);
  } finally {
    await browser.close();
  }
});

test("the time left is what steps took so far, and nothing is claimed before the first is done", () => {
  expect(timeLeft(0, 0, 16)).toBe("");
  expect(timeLeft(10_000, 4, 16)).toBe("about 30 s left");
  expect(timeLeft(600_000, 4, 16)).toBe("about 30 min left");
  expect(timeLeft(10_000, 16, 16)).toBe("");
});

describe("compare", () => {
  test("is --peers, and --targets where it says so", () => {
    const asked = (...argv: string[]) => parseCommandLine(argv, recorder());
    expect(asked("compare", "--sizes", "64", "--quick")).toEqual(asked("--peers", "--sizes", "64", "--quick"));
    expect(asked("compare", "webgpu", "--strict")).toEqual(asked("--peers", "--targets", "webgpu", "--strict"));
    expect(asked("compare", "wasm", "--targets", "--json", file("c.json"))).toEqual(
      asked("--peers", "--targets", "wasm", "--json", file("c.json")),
    );
  });
});

describe("every command", () => {
  test.each(["run", "compare", "roofline", "explain", "report"])(
    "%s --help tells what it takes, and does nothing else",
    async (command) => {
      const { code, out, complaints } = await fa(command, "--help");
      expect({ code, complaints }).toEqual({ code: 0, complaints: [] });
      expect(out).toMatch(new RegExp(`^Usage: fa-bench ${command} `));
      expect(out).toMatch(/--json <file>/);
    },
  );
});

test("help COMMAND is COMMAND --help", async () => {
  expect((await fa("help", "run")).out).toBe((await fa("run", "--help")).out);
});

describe("bad input is a clear line and exit code 1, before any work", () => {
  const whole = formatResults(madeResults());
  const newer = whole.replace(`"version": ${VERSION}`, `"version": ${VERSION + 1}`);
  test.each<[string[], RegExp]>([
    [["run", "--backend", "wasm,tpu"], /There are cuda, webgpu, wasm, reference/],
    [["run", "--pass", "sideways"], /There are forward, backward, decode/],
    [["run", "--window", "5"], /two whole numbers from -1, like 255,0/],
    [["run", "--dropout", "2"], /a number from 0 to 1/],
    [["run", "--softcap", "0"], /a number above 0/],
    [["run", "--causal", "left"], /There are bottom-right, top-left/],
    [["run", "--heads", "8", "--heads-kv", "3"], /Hkv must divide H; got Hkv=3, H=8/],
    [["run", "--json", join(folder, "none", "x.json")], /There is no folder/],
    [["run", "extra"], /too many arguments/],
    [["explain", "--dim", "300"], /head dim D must be at most 256/],
    [["explain", "--measure", "--store", join(folder, "none", "x.json")], /There is no folder/],
    [["compare", "webgpu", "--sizes", "64"], /--sizes and --dim go with wasm and without --targets/],
    [["compare", "cdua"], /There are wasm, webgpu/],
    [["roofline", file("missing.json")], /There is no such file/],
    [["roofline", folder], /It is a folder/],
    [
      ["roofline", written("short.json", whole.slice(0, 400))],
      /^fa-bench: .*short\.json: .*whole JSON file.*run again/s,
    ],
    [
      ["report", written("newer.json", newer), "--out", file("no.html")],
      /newer\.json: .*must have version \d+; got \d+/,
    ],
    [
      [
        "report",
        written("bad.json", whole.replace(/"ok": true,(?=\s+"against")/, '"ok": false,')),
        "--out",
        file("no.html"),
      ],
      /verification\.ok/,
    ],
    [["report", written("fine.json", whole)], /required option '--out <file\.html>'/],
    [["report", file("fine.json"), "--out", file("page.pdf")], /must end in \.html/],
    [["report", "--out", file("no.html")], /missing required argument 'files'/],
  ])("%j", async (argv, message) => {
    const { code, complaints } = await fa(...argv);
    expect(code).toBe(1);
    expectOneLine(complaints, message);
    expect(existsSync(file("no.html"))).toBe(false);
  });
});

test("a folder that goes away before the page is written: a clear line, exit code 1", async () => {
  const gone = join(folder, "gone");
  mkdirSync(gone);
  const run = written("whole.json", formatResults(madeResults()));
  const terminal = recorder();
  const job = main(["report", run, "--out", join(gone, "p.html")], { terminal });
  rmSync(gone, { recursive: true });
  expect(await job).toBe(1);
  expectOneLine(terminal.complaints, /^fa-bench: ENOENT/);
});
