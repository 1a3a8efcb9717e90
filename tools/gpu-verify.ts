// npm run gpu-verify: everything that has to hold on an NVIDIA GPU, in one go, on the machine that has it.
//
//   --addon FILE   the addon; default: the prebuilt one        --ptx FILE   one with PTX of compute_80 alone; default:
//                                                                          ptx/ beside the addon, or built
//   --only a,b     some steps                                  --seconds N  no step starts later, and none runs longer
//   --out FILE     default: apps/bench/results/conformance/linux-x64-GPU-cuda.json
//
// First each op once under memcheck: if that fails, the rest is left out. Then times, with the machine to themselves; then conformance on both addons, compute-sanitizer's four tools over problems that
// reach every row of the kernel table, repeats and flat memory, side by side; and last large tensors and faults. What is not there is named as skipped.
// Exits 1 when a step failed.

import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { root } from "./test-needs.ts";

const { values: flags } = parseArgs({
  options: {
    addon: { type: "string", default: join(root, "packages/backend-cuda/npm/linux-x64/fa-cuda.node") },
    ptx: { type: "string" },
    only: { type: "string" },
    seconds: { type: "string", default: "3600" },
    out: { type: "string" },
  },
});
const deadline = performance.now() + Number(flags.seconds) * 1000;

const SOURCES = "--conditions=@fa/source";
const build = join(root, "packages/backend-cuda/tools/build.ts");
const harness = join(root, "packages/backend-cuda/harness/main.ts");
const suite = join(root, "packages/conformance/src/cli.ts");
const provider = join(root, "packages/backend-cuda/src/index.ts");

interface Result {
  readonly name: string;
  readonly status: "passed" | "failed" | "skipped";
  readonly seconds: number;
  /** What it measured, or the end of what it said. */
  readonly result?: unknown;
}

type Command = readonly [string, ...string[]];

interface Step {
  readonly name: string;
  readonly command: Command;
  /** More of them, at the same time; what all say is read together. */
  readonly beside?: readonly Command[];
  /** Why it cannot run here. */
  readonly lacks?: string | undefined;
  readonly read: (output: string) => unknown;
  /** What failed, from the output; left out, its end tells. */
  readonly explain?: (output: string) => string;
}

const lastLines = (text: string): string => text.trimEnd().split("\n").slice(-12).join("\n");

interface Outcome {
  /** null: it ran out of time. */
  readonly code: number | null;
  readonly output: string;
  readonly errors: string;
}

function outcomeOf([program, ...args]: Command, milliseconds: number): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = spawn(program, args, { cwd: root, timeout: Math.ceil(milliseconds), killSignal: "SIGKILL" });
    let output = "";
    let errors = "";
    child.stdout.on("data", (text) => (output += text));
    child.stderr.on("data", (text) => (errors += text));
    child.on("error", (error) => resolve({ code: 1, output, errors: error.message }));
    child.on("close", (code) => resolve({ code, output, errors }));
  });
}

function explained(output: string, explain: Step["explain"]): string | undefined {
  try {
    return explain?.(output) || undefined;
  } catch {
    return undefined;
  }
}

async function runStep({ name, command, beside = [], lacks, read, explain }: Step): Promise<Result> {
  const start = performance.now();
  const done = (status: Result["status"], result?: unknown): Result => {
    const seconds = Math.round((performance.now() - start) / 100) / 10;
    console.log(`${status}  ${name} (${seconds} s)${status === "failed" ? `\n${String(result)}` : ""}`);
    return { name, status, seconds, result };
  };
  if (lacks !== undefined) return done("skipped", lacks);
  const left = deadline - start;
  if (left <= 0) return done("skipped", "no time was left");
  const all = await Promise.all([command, ...beside].map((one) => outcomeOf(one, left)));
  const { code, errors } = all.find((outcome) => outcome.code !== 0) ?? all[0];
  const output = all.map((outcome) => outcome.output).join("\n");
  if (code === null) return done("failed", `no end after ${Math.round(left)} ms`);
  if (code !== 0) return done("failed", explained(output, explain) ?? lastLines(output + errors));
  try {
    return done("passed", read(output));
  } catch (error) {
    return done("failed", `${(error as Error).message}: ${lastLines(output + errors)}`);
  }
}

const works = (command: string, ...args: string[]): string | undefined => {
  const { status, stdout } = spawnSync(command, args, { encoding: "utf8" });
  return status === 0 ? stdout.trim() : undefined;
};

/** What an addon was built from, as `packages/backend-cuda/tools/build.ts` has written beside it. */
function sourcesOf(addon: string): string | undefined {
  const stamp = join(dirname(addon), "stamp.json");
  return existsSync(stamp) ? (JSON.parse(readFileSync(stamp, "utf8")) as { sources?: string }).sources : undefined;
}

/** The addon with PTX of compute_80 alone, which a newer GPU compiles as it loads it. */
function ptxAddon(): { path: string; lacks?: string | undefined } {
  const given = flags.ptx ?? join(dirname(flags.addon), "ptx", "fa-cuda.node");
  if (flags.ptx !== undefined || existsSync(given)) {
    const other = sourcesOf(given) !== sourcesOf(flags.addon);
    return { path: given, lacks: other ? `${given} and the addon are of different sources` : undefined };
  }
  const path = join(mkdtempSync(join(tmpdir(), "fa-ptx-")), "fa-cuda.node");
  if (works("nvcc", "--version") === undefined) return { path, lacks: "nvcc is not installed" };
  const { status, stderr } = spawnSync(process.execPath, [build, "--ptx", "--out", path], { encoding: "utf8" });
  return status === 0 ? { path } : { path, lacks: `the build with PTX failed: ${stderr}` };
}

const ptx = ptxAddon();
const missing = existsSync(flags.addon) ? undefined : `${flags.addon} is not there: npm run build:cuda`;
const sanitizer =
  works("compute-sanitizer", "--version") === undefined ? "compute-sanitizer is not installed" : undefined;

const kernel = (name: string, ...args: string[]): Step => ({
  name,
  command: [process.execPath, "--expose-gc", SOURCES, harness, name, "--addon", flags.addon, "--json", ...args],
  lacks: missing,
  read: (output) => JSON.parse(output) as unknown,
});

/** Capabilities of the suite that take longest; each has a process, and the rest share one. */
const SHARDS = ["float16", "bfloat16", "causal,lengths,plain", "head-dim", "linear,cast,dropout"];

interface Report {
  readonly passed: number;
  readonly failed: number;
  readonly refused: number;
  readonly results: readonly { readonly name: string; readonly status: string; readonly reason?: string }[];
}

/** What several runs of the suite have printed. */
const reportsOf = (output: string): Report[] =>
  output
    .trim()
    .split(/\n(?=\{)/)
    .map((text) => JSON.parse(text) as Report);

const conformance = (name: string, addon: string, lacks?: string): Step => {
  const options = ["-b", provider, "-p", JSON.stringify({ addon, poison: true }), "--json"];
  const shard = (capabilities: string): Command => [
    process.execPath,
    SOURCES,
    suite,
    ...options,
    "--capability",
    capabilities,
  ];
  const listed = works(process.execPath, SOURCES, suite, "-b", "reference", "--list") ?? "";
  const taken = new Set(SHARDS.flatMap((shardNames) => shardNames.split(",")));
  const rest = new Set(
    listed
      .split("\n")
      .map((line) => line.split("\t")[0])
      .filter((one) => !taken.has(one)),
  );
  const [command, ...beside] = [...SHARDS, [...rest].join(",")].map(shard);
  return {
    name,
    command,
    beside,
    lacks,
    read: (output) => {
      const sum = { passed: 0, failed: 0, refused: 0 };
      for (const report of reportsOf(output)) {
        for (const key of ["passed", "failed", "refused"] as const) sum[key] += report[key];
      }
      return sum;
    },
    explain: (output) =>
      reportsOf(output)
        .flatMap(({ results }) => results.filter(({ status }) => status === "failed"))
        .map(({ name: check, reason }) => `${check}: ${reason?.slice(0, 300)}`)
        .join("\n"),
  };
};

/** In so many processes, since most of its time goes into taking kernels apart and into the reference. */
const SANITIZED_PARTS = 4;

const sanitize = (tool: string, kernelName: string): Step => {
  // Each tensor an allocation of its own, so that one byte past its end is out of bounds.
  const options = ["--tool", tool, "--error-exitcode", "9", "--target-processes", "all", "--print-limit", "5"];
  const work = [process.execPath, SOURCES, harness, kernelName, "--addon", flags.addon, "--lean", "--json"];
  const numbers = Array.from({ length: SANITIZED_PARTS }, (_, n) => `${n + 1}/${SANITIZED_PARTS}`);
  const [command, ...beside] = numbers.map((part): Command => [
    "compute-sanitizer",
    ...options,
    ...work,
    "--part",
    part,
  ]);
  return {
    name: `${kernelName}, compute-sanitizer ${tool}`,
    command,
    beside,
    lacks: missing ?? sanitizer,
    read: (output) => {
      const summaries = output.split("\n").filter((line) => line.includes(" SUMMARY: "));
      if (summaries.length !== SANITIZED_PARTS) throw new Error("some part has no summary");
      return summaries;
    },
  };
};

const SMOKE: Step = sanitizer === undefined ? sanitize("memcheck", "smoke") : kernel("smoke");
const ALONE: readonly Step[] = ["calls", "forward", "decode", "backward", "linear"].map((name) => kernel(name));
const TOGETHER: readonly Step[] = [
  conformance("conformance", flags.addon, missing),
  conformance("conformance, compute_80 as PTX", ptx.path, ptx.lacks),
  ...["memcheck", "racecheck", "initcheck", "synccheck"].map((tool) => sanitize(tool, "cases")),
  kernel("repeats"),
  kernel("flat"),
];
/** What takes the memory that others need. */
const LAST: readonly Step[] = [kernel("large"), kernel("faults")];

const wanted = (step: Step): boolean => flags.only?.split(",").some((name) => step.name.includes(name)) ?? true;

const gpu = works("nvidia-smi", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader");
const [name = "no GPU", driver = "none", power = ""] = gpu?.split("\n")[0].split(", ") ?? [];
console.log(`${name}, driver ${driver}, ${availableParallelism()} cores`);
const results: Result[] = [];
results.push(await runStep(SMOKE));
if (results[0].status !== "failed") {
  for (const step of ALONE.filter(wanted)) results.push(await runStep(step));
  results.push(...(await Promise.all(TOGETHER.filter(wanted).map(runStep))));
  for (const step of LAST.filter(wanted)) results.push(await runStep(step));
}

const machine = {
  name,
  driver,
  power,
  cpu: cpus()[0]?.model ?? "",
  platform: "linux-x64",
  runtime: `node ${process.versions.node}`,
};
const commit = process.env["FA_COMMIT"] ?? works("git", "-C", root, "rev-parse", "--short=12", "HEAD") ?? "unknown";
// `packages/backend-cuda/tools/build.ts --release` asks for it.
const sources = sourcesOf(flags.addon);
const date = new Date().toISOString();
const report = { schema: "fa-gpu-verify", version: 1, machine, date, commit, sources, results };
const slug = name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-");
const out = flags.out ?? join(root, "apps/bench/results/conformance", `linux-x64-${slug}-cuda.json`);
mkdirSync(dirname(out), { recursive: true });
writeFileSync(out, `${JSON.stringify(report, undefined, 2)}\n`);
const count = (status: Result["status"]): number => results.filter((result) => result.status === status).length;
console.log(`${count("passed")} passed, ${count("failed")} failed, ${count("skipped")} skipped: ${out}`);
process.exitCode = count("failed") === 0 && missing === undefined ? 0 : 1;
