import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { parseResults } from "../src/results.ts";

const CLI = join(import.meta.dirname, "../src/cli.ts");
const folder = mkdtempSync(join(tmpdir(), "fa-bench-cli-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Runs the command as a user would; `onText` sees its output grow. */
function fa(
  args: readonly string[],
  onText: (text: string, child: ReturnType<typeof spawn>) => void = () => {},
  env: NodeJS.ProcessEnv = {},
) {
  const { FA_BACKEND: _unset, ...outside } = process.env;
  const child = spawn(process.execPath, ["--conditions=@fa/source", CLI, ...args], { env: { ...outside, ...env } });
  let out = "";
  let err = "";
  child.stdout.on("data", (chunk) => onText((out += chunk), child));
  child.stderr.on("data", (chunk) => (err += chunk));
  return new Promise<{ code: number | null; signal: string | null; out: string; err: string }>((resolve) => {
    child.on("close", (code, signal) => resolve({ code, signal, out, err }));
  });
}

test("Ctrl-C: what was measured is printed and saved, `stopped`, exit code 130", async () => {
  const json = join(folder, "stopped.json");
  let sent = false;
  // On the reference 1024 keys take seconds: the signal comes in the middle of them.
  const args = ["--backend", "reference", "--quick", "--sizes", "1024", "--budget", "100", "--json", json];
  const { code, signal, out, err } = await fa(args, (text, child) => {
    if (sent || !text.includes("module/module/fwd+bwd")) return;
    sent = true;
    child.kill("SIGINT");
  });
  expect({ code, signal, err }).toEqual({ code: 130, signal: null, err: "" });
  expect(out.trimEnd().split("\n").at(-1)).toBe("stopped");
  expect(out).toMatch(/block 64 +[\d.]+ ± /);
  expect(out).not.toMatch(/S 1024, causal/);
  const saved = parseResults(readFileSync(json, "utf8"), json);
  expect(saved.complete).toBe(false);
  expect(saved).toHaveProperty("outcomes.3.outcome");
});

test("Ctrl-C in a run of one's own: the same, and no other back end is begun", async () => {
  const json = join(folder, "run.json");
  let sent = false;
  const args = ["run", "--backend", "reference,wasm", "--sizes", "64,1024", "--budget", "1000", "--json", json];
  const { code, out, err } = await fa(args, (text, child) => {
    if (sent || !text.includes("run/forward/float32/64")) return;
    sent = true;
    child.kill("SIGINT");
  });
  expect({ code, err }).toEqual({ code: 130, err: "" });
  expect(out.trimEnd().split("\n").at(-1)).toBe("stopped");
  expect(out).not.toMatch(/^wasm/m);
  const saved = parseResults(readFileSync(join(folder, "run-reference.json"), "utf8"), json);
  expect(saved.complete).toBe(false);
  expect(saved).toHaveProperty("outcomes.0.outcome", "measured");
});

const { FA_VULKAN_ICD: driver } = process.env;

test.skipIf(!driver)("WebGPU is timed by its own timestamps where it has them, and the file says so", async () => {
  const json = join(folder, "webgpu.json");
  const small = ["--sizes", "32", "--heads", "2", "--dim", "16", "--budget", "60", "--json", json];
  const args = ["run", "--backend", "webgpu", "--software", "--pass", "forward,backward", ...small];
  const { code, out } = await fa(args, undefined, { VK_DRIVER_FILES: driver });
  expect(code).toBe(0);
  expect(out).toMatch(/^memory +[\d.]+ GB\/s, reading 16 MiB of the GPU's memory$/m);
  expect(out).toMatch(/^timed by GPU timestamps before and after the calls of a sample\n +wall clock;/m);
  const saved = parseResults(readFileSync(json, "utf8"), json);
  expect(saved).toMatchObject({
    outcomes: [
      { pass: "forward", timing: { timer: "gpu" }, verification: { ok: true } },
      { pass: "backward", timing: { timer: "wall" }, verification: { ok: true } },
    ],
  });
});

test("a back end that is not there: the reason, exit code 1, no stack trace, no file", async () => {
  const json = join(folder, "none.json");
  const { code, err } = await fa(["--backend", "cuda", "--json", json]);
  expect(code).toBe(1);
  expect(err).toMatch(/^fa-bench: .*cuda \(.+\)/);
  expect(err).not.toMatch(/^\s+at /m);
  expect(existsSync(json)).toBe(false);
});

test("FA_BACKEND is honoured, and --backend goes before it", async () => {
  const args = ["--quick", "--sizes", "32"];
  const own = await fa(args, undefined, { FA_BACKEND: "reference" });
  expect(own.out).toMatch(/^reference +taken/m);
  const named = await fa([...args, "--backend", "reference"], undefined, { FA_BACKEND: "cuda" });
  expect(named.code).toBe(0);
});

test("without --backend every back end is reported, with the reason", async () => {
  const { code, out } = await fa(["--quick", "--sizes", "32"]);
  expect(code).toBe(0);
  for (const name of ["cuda", "webgpu", "wasm", "reference"]) {
    expect(out).toMatch(new RegExp(`^${name} +(taken|not taken) +\\S`, "m"));
  }
});

test("a reader that goes away stops the run without a word; what was measured is saved", async () => {
  const json = join(folder, "unread.json");
  const args = ["--backend", "reference", "--quick", "--sizes", "256", "--json", json];
  const { code, err } = await fa(args, (_text, child) => child.stdout?.destroy());
  expect({ code, err }).toEqual({ code: 141, err: "" });
  expect(parseResults(readFileSync(json, "utf8"), json).complete).toBe(false);
});
