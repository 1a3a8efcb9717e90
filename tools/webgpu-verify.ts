// npm run webgpu-verify: the conformance suite on every tier of the WebGPU back end, through Dawn on the GPU of this machine.
//
//   --tiers a,b    some of portable, subgroups, matrix, float16Scores       --processes N   at a time; default: one a core
//   --only TEXT, --capability a,b   as conformance has them                  --seconds N     nothing starts later, nothing runs longer
//   --runs N        random problems a property; default 4, since each is a shader of its own
//   --software     also on a processor that plays a GPU
//   --deno         in Deno instead, on its own WebGPU, wgpu, which is Firefox's too
//   --out FILE     default: apps/bench/results/conformance/PLATFORM-GPU-webgpu.json
//
// Nearly all of the time goes into compiling shaders, 1 to 2 s each on a GPU's driver. So the suite is cut into parts that run side by
// side, a process each; and a part runs on one tier after the other, since the driver remembers what it compiled for the
// tier before. Exits 1 unless every check of every tier passed, or was refused with a reason.

import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { ConformanceReport } from "@fa/conformance";
import { SOFTWARE } from "./software-gpu.ts";
import { findDeno, root } from "./test-needs.ts";
import { says, settle, type TierOutcome } from "./webgpu-report.ts";

interface Tier {
  /** Of `webgpu()`. */
  readonly options: object;
  /** Checks whose kernels are not those of the tier before it, by a piece of their names; left out, all. */
  readonly only?: string;
}

const TIERS: Readonly<Record<string, Tier>> = {
  portable: { options: { tier: "portable" } },
  subgroups: { options: { tier: "subgroups" } },
  matrix: { options: { tier: "matrix" } },
  float16Scores: { options: { tier: "matrix", float16Scores: true }, only: "float16" },
};
/** So many that none takes much longer than others, so few that starting a process is little beside them. */
const PARTS = 64;

const { values: flags } = parseArgs({
  options: {
    tiers: { type: "string", default: Object.keys(TIERS).join() },
    processes: { type: "string", default: String(availableParallelism()) },
    only: { type: "string" },
    capability: { type: "string" },
    runs: { type: "string", default: "4" },
    seconds: { type: "string", default: "3600" },
    software: { type: "boolean", default: false },
    deno: { type: "boolean", default: false },
    out: { type: "string" },
  },
});
const { path: denoPath, why } = findDeno();
if (flags.deno && !denoPath) throw new Error(`Deno is ${why}`);
const deno = flags.deno ? denoPath : undefined;
const start = performance.now();
const deadline = start + Number(flags.seconds) * 1000;
const seconds = (since: number): number => Math.round((performance.now() - since) / 100) / 10;

interface Part {
  readonly tier: string;
  readonly number: number;
}

/** What became of a part: a report, or why there is none. */
interface Outcome extends Part {
  readonly report?: ConformanceReport;
  readonly reason?: string;
  readonly seconds: number;
}

function run({ tier, number }: Part): Promise<Outcome> {
  const since = performance.now();
  const options = { ...TIERS[tier].options, ...(flags.software && SOFTWARE) };
  const args = ["-b", join(root, "packages/backend-webgpu/src/index.ts"), "-p", JSON.stringify(options), "--json"];
  args.push("--part", `${number}/${PARTS}`);
  const { only = TIERS[tier].only, capability, runs } = flags;
  for (const [name, value] of Object.entries({ only, capability, runs })) if (value) args.push(`--${name}`, value);
  const suite = join(root, "packages/conformance/src/cli.ts");
  const left = Math.max(1, Math.ceil(deadline - since));
  return new Promise((resolve) => {
    const [command, ...first] = deno ? [deno, "run", "-A", "--no-lock"] : [process.execPath];
    const own = [...first, "--conditions=@fa/source", suite, ...args];
    const child = spawn(command, own, { cwd: root, timeout: left, killSignal: "SIGKILL" });
    let output = "";
    let errors = "";
    child.stdout.on("data", (text) => (output += text));
    child.stderr.on("data", (text) => (errors += text));
    child.on("error", ({ message }) => (errors += message));
    child.on("close", (code, signal) => {
      const done = { tier, number, seconds: seconds(since) };
      if (code === 2 && errors.includes("no check matches")) resolve(done);
      else if (output.startsWith("{")) resolve({ ...done, report: JSON.parse(output) as ConformanceReport });
      else resolve({ ...done, reason: signal ? `ended by ${signal}` : errors.trim().slice(-2000) });
    });
  });
}

const wanted = flags.tiers.split(",");
const unknown = wanted.find((tier) => !(tier in TIERS));
if (unknown) throw new Error(`--tiers must be some of ${Object.keys(TIERS).join()}; got ${unknown}`);

const outcomes: Outcome[] = [];
// The last ones, of random problems, take longest.
const numbers = Array.from({ length: PARTS }, (_, n) => n + 1);
async function work(): Promise<void> {
  for (let number = numbers.pop(); number; number = numbers.pop()) {
    for (const tier of wanted) {
      const late = performance.now() > deadline;
      const outcome = late ? { tier, number, reason: "no time was left", seconds: 0 } : await run({ tier, number });
      outcomes.push(outcome);
      const { report, reason } = outcome;
      const said = reason ?? `${report?.passed ?? 0} passed${report?.failed ? `, ${report.failed} failed` : ""}`;
      console.log(`${tier} ${number}/${PARTS}: ${said} (${outcome.seconds} s)`);
    }
  }
}
await Promise.all(Array.from({ length: Number(flags.processes) }, work));

const tiers = wanted.map((tier): TierOutcome => {
  const own = outcomes.filter((outcome) => outcome.tier === tier).toSorted((a, b) => a.number - b.number);
  return {
    tier,
    only: flags.only ?? TIERS[tier].only,
    device: own.find(({ report }) => report)?.report?.device ?? "did not open",
    results: own.flatMap(({ report }) => report?.results ?? []),
    missing: own.flatMap(({ number, reason }) => (reason === undefined ? [] : [{ part: number, reason }])),
    processSeconds: Math.round(own.reduce((sum, part) => sum + part.seconds, 0)),
  };
});

const [name, driver = "unknown"] =
  says("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")?.split(", ") ?? [];
const { version } = createRequire(import.meta.url)("webgpu/package.json") as { version: string };
process.exitCode = settle({
  name: flags.software || name === undefined ? tiers[0].device : name,
  driver,
  webgpu: deno ? "wgpu" : `Dawn, npm webgpu ${version}`,
  runtime: deno ? (says(deno, "--version") ?? "deno") : `node ${process.versions.node}`,
  seconds: seconds(start),
  tiers,
  out: flags.out,
});
